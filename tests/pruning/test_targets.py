"""Targets: refused when they cannot be met, with what can; speed by measured times, here of a clock of our own."""

import pytest
import torch

from tkd_hf import InputError, TKDConfig, TKDForSequenceClassification, student_from_teacher
from tkd_hf.pruning import ParameterTarget, SpeedTarget, Units
from tkd_hf.pruning.ranking import Costs, prune_to_budget, removal_order
from tkd_hf.pruning.units import resized_config


CONFIG = TKDConfig(
    vocab_size=20, hidden_size=16, num_hidden_layers=4, num_attention_heads=4, intermediate_size=32, head_dim=4
)
KINDS = ("heads", "neurons", "layers")
EQUAL = Costs([1] * 4, [1] * 4, 1, 1)


@pytest.fixture
def model():
    return TKDForSequenceClassification(CONFIG)


@pytest.fixture
def clock(monkeypatch):
    """Times that follow from the shape: 1 ms of rest, 1 a layer, 0.5 a head and 0.1 a neuron, but half in the last."""

    def milliseconds(model, shapes, *args):
        def time(shape):
            depth = range(shape.num_hidden_layers)
            units = [0.5 * shape.heads_of(i) + 0.1 * shape.intermediate_size_of(i) for i in depth]
            return 1 + len(depth) + sum(units) - units[-1] / 2

        return [time(shape) for shape in shapes]

    monkeypatch.setattr("tkd_hf.pruning.targets.shape_latencies", milliseconds)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"share": 0.01}, r"0.01 of the parameters cannot be met by removing heads, neurons, layers: at least"),
        ({"megabytes": 0.001}, r"0.001 MB cannot be met .* MB\) are left; hidden can go, too .*so can the vocabulary"),
        ({"share": 1.0}, r"M parameters \(1.000, .* already; the target 1 of the parameters is not below"),
        ({"megabytes": 50}, "the target 50 MB is not below that"),
        ({"share": -0.5}, "the target -0.5 of the parameters cannot be met"),
        ({}, "give one of the two"),
        ({"share": 0.5, "megabytes": 10.0}, "give one of the two"),
        (
            {"share": 0.5, "kinds": ("heads", "words")},
            "units=heads, words; choose among heads, neurons, layers, hidden",
        ),
        ({"share": 0.5, "kinds": ()}, "units=none; choose among heads, neurons, layers, hidden"),
    ],
)
def test_targets_that_cannot_be_met(model, target, message):
    with pytest.raises(InputError, match=message):
        ParameterTarget(model, **target)


def test_a_share_of_more_than_is_there(model):
    """As where the vocabulary went before."""
    there = model.num_parameters()
    target = ParameterTarget(model, 0.4, reference_parameters=2 * there)
    assert target.budget(None, None) == pytest.approx(0.8 * there)
    with pytest.raises(InputError, match=r"\(0.500, .* already; the target 0.6 of the parameters is not below"):
        ParameterTarget(model, 0.6, reference_parameters=2 * there)


def test_the_nearest_possible_target_is_possible(model):
    with pytest.raises(InputError, match="left") as error:
        ParameterTarget(model, 0.01)
    nearest = float(str(error.value).partition("(")[2].partition(",")[0])
    ParameterTarget(model, nearest + 0.001)
    with pytest.raises(InputError):
        ParameterTarget(model, nearest - 0.001)


def test_megabytes_are_those_of_the_weights(model):
    target = ParameterTarget(model, megabytes=0.06)
    assert target.budget(Units.full(CONFIG, True), []) == 15_000


def test_models_that_cannot_be_pruned(teacher):
    with pytest.raises(InputError, match=r"BertForSequenceClassification cannot be pruned .*to_tkd"):
        ParameterTarget(teacher, 0.5)
    student = student_from_teacher(teacher, position_embedding_type="sinusoidal")
    with pytest.raises(InputError, match="units=hidden for a model with position_embedding_type='sinusoidal'"):
        ParameterTarget(student, 0.5, kinds=("hidden",))


def test_prices_are_the_measured_times(model, clock):
    target = SpeedTarget(model, 2.0, None, [])
    costs = Costs.from_price(CONFIG, target.price)
    assert target.price(CONFIG) == pytest.approx(1 + 4 + 3.5 * (2 + 3.2))
    assert costs.heads == pytest.approx([0.5, 0.5, 0.5, 0.25])
    assert costs.neurons == pytest.approx([0.1, 0.1, 0.1, 0.05])
    assert costs.layers == pytest.approx(1.0)


def test_one_layer_is_the_last(clock):
    shape = resized_config(CONFIG, [4], [32], 16)
    target = SpeedTarget(TKDForSequenceClassification(shape), 1.5, None, [])
    costs = Costs.from_price(shape, target.price)
    assert target.price(shape) == pytest.approx(1 + 1 + 0.5 * (2 + 3.2))
    assert (costs.heads, costs.neurons) == (pytest.approx([0.25]), pytest.approx([0.05]))


@pytest.mark.parametrize("kinds", [KINDS, ("heads", "neurons")])
def test_the_speedup_is_reached_and_not_overdone(model, clock, kinds):
    target, masks = SpeedTarget(model, 2.0, None, [], kinds=kinds), Units.full(CONFIG, True)
    torch.manual_seed(0)
    order = removal_order(_random(masks), masks, EQUAL, kinds)
    budget = target.budget(masks, order)
    left = prune_to_budget(lambda masks: target.price(masks.pruned_config(CONFIG)) <= budget, masks, order)
    whole, pruned = target.milliseconds(CONFIG, left.pruned_config(CONFIG))
    assert 2.0 <= whole / pruned < 2.3


def _random(masks: Units) -> Units:
    return masks.map(lambda mask: torch.rand(len(mask)))


def test_one_lucky_measurement_is_not_believed(model, clock, monkeypatch):
    """The clock is wrong once, the first time; the shape that is chosen is fast all the same."""
    target, masks = SpeedTarget(model, 2.0, None, []), Units.full(CONFIG, True)
    order = removal_order(_random(masks), masks, EQUAL, ("neurons", "heads"))
    honest, lies = target.milliseconds, iter([lambda times: [times[0] * 9, times[1]]])
    monkeypatch.setattr(target, "milliseconds", lambda *shapes: next(lies, list)(honest(*shapes)))
    budget = target.budget(masks, order)
    left = prune_to_budget(lambda masks: target.price(masks.pruned_config(CONFIG)) <= budget, masks, order)
    whole, pruned = honest(CONFIG, left.pruned_config(CONFIG))
    assert 2.0 <= whole / pruned < 2.3


def test_a_speedup_out_of_reach(model, clock):
    with pytest.raises(InputError, match=r"50 times as fast cannot be met .* at least is 9\.47 times as fast"):
        SpeedTarget(model, 50.0, None, [])
    with pytest.raises(InputError, match=r"a speedup of 0\.9 is none; it must be more than 1"):
        SpeedTarget(model, 0.9, None, [])


def test_a_real_clock(model, tokenizer):
    """Prices are positive whatever the noise, and survive a checkpoint."""
    texts = [("good film",), ("a very fine story",)]
    target, again = (SpeedTarget(model, 1.01, tokenizer, texts) for _ in range(2))
    costs = Costs.from_price(CONFIG, target.price)
    assert min(*costs.heads, *costs.neurons, costs.layers) > 0
    again.load_state_dict(target.state_dict())
    assert again.price(CONFIG) == target.price(CONFIG)
