"""Targets: parameters, megabytes and speed, and the errors for targets that cannot be met.

Latencies come from a simulated clock, except in the last test.
"""

import pytest
import torch

from tkd_hf import InputError, TKDConfig, TKDForSequenceClassification, student_from_teacher
from tkd_hf.pruning.arguments import PruningArguments
from tkd_hf.pruning.ranking import Costs, prune_to_budget, removal_order
from tkd_hf.pruning.targets import ParameterTarget, SpeedTarget
from tkd_hf.pruning.units import Units, resized_config


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
    """Compute latencies instead of measuring them.

    A model takes 1 ms outside its layers, 1 ms per layer, 0.5 ms per head and 0.1 ms per neuron; units of the last
    layer take half as long.
    """

    def latencies(model, shapes, *args):
        def latency(shape):
            layers = range(shape.num_hidden_layers)
            units = [0.5 * shape.heads_of(i) + 0.1 * shape.intermediate_size_of(i) for i in layers]
            return 1 + len(layers) + sum(units) - units[-1] / 2

        return [latency(shape) for shape in shapes]

    monkeypatch.setattr("tkd_hf.pruning.targets.shape_latencies", latencies)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"share": 0.01}, r"0.01 of the parameters cannot be met by removing heads, neurons, layers, .* at least"),
        ({"megabytes": 0.001}, r"0.001 MB cannot be met .* MB\); allow hidden to be removed .*prune the vocabulary"),
        ({"share": 1.0}, r"already has only .* M parameters \(1.000, .* instead of 1 of the parameters"),
        ({"megabytes": 50}, "choose a target below that instead of 50 MB"),
        ({"share": -0.5}, "the target -0.5 of the parameters cannot be met"),
        ({"share": float("nan")}, "share=nan is not a finite number"),
        ({"megabytes": float("inf")}, "megabytes=inf is not a finite number"),
        ({}, "give one of the two"),
        ({"share": 0.5, "megabytes": 10.0}, "give one of the two"),
        (
            {"share": 0.5, "kinds": ("heads", "words")},
            "units=heads, words; choose among heads, neurons, layers, hidden",
        ),
        ({"share": 0.5, "kinds": ()}, "units=none; choose among heads, neurons, layers, hidden"),
    ],
)
def test_parameter_target_that_cannot_be_met_is_refused(model, target, message):
    with pytest.raises(InputError, match=message):
        ParameterTarget(model, **target)


@pytest.mark.parametrize("name", ["target_params", "target_size", "target_speedup"])
def test_targets_that_are_not_finite_are_refused_before_any_work(name):
    """A limit of NaN is below nothing and above nothing, so that pruning went on to the smallest model."""
    with pytest.raises(InputError, match=f"{name}=nan is not a finite number"):
        PruningArguments(**{name: float("nan")})


def test_share_can_refer_to_the_parameters_before_vocabulary_pruning(model):
    parameters = model.num_parameters()
    target = ParameterTarget(model, 0.4, reference_parameters=2 * parameters)
    assert target.budget(None, None) == pytest.approx(0.8 * parameters)
    with pytest.raises(InputError, match=r"already has only .*\(0.500, .* instead of 0.6 of the parameters"):
        ParameterTarget(model, 0.6, reference_parameters=2 * parameters)


def test_smallest_share_named_in_the_error_can_be_met(model):
    with pytest.raises(InputError, match="at least") as error:
        ParameterTarget(model, 0.01)
    smallest_share = float(str(error.value).partition("(")[2].partition(",")[0])
    ParameterTarget(model, smallest_share + 0.001)
    with pytest.raises(InputError):
        ParameterTarget(model, smallest_share - 0.001)


def test_megabytes_are_counted_at_four_bytes_per_parameter(model):
    target = ParameterTarget(model, megabytes=0.06)
    assert target.budget(Units.full(CONFIG, True), []) == 15_000


def test_models_without_prunable_structure_are_refused(teacher):
    with pytest.raises(InputError, match=r"BertForSequenceClassification cannot be pruned .*to_tkd"):
        ParameterTarget(teacher, 0.5)
    student = student_from_teacher(teacher, position_embedding_type="sinusoidal")
    with pytest.raises(InputError, match=r"units=hidden .* position_embedding_type='sinusoidal'"):
        ParameterTarget(student, 0.5, kinds=("hidden",))


def test_prices_reproduce_the_measured_latencies(model, clock):
    target = SpeedTarget(model, 2.0, None, [])
    costs = Costs.from_price(CONFIG, target.price)
    assert target.price(CONFIG) == pytest.approx(1 + 4 + 3.5 * (2 + 3.2))
    assert costs.heads == pytest.approx([0.5, 0.5, 0.5, 0.25])
    assert costs.neurons == pytest.approx([0.1, 0.1, 0.1, 0.05])
    assert costs.layers == pytest.approx(1.0)


def test_only_layer_has_the_prices_of_a_last_layer(clock):
    shape = resized_config(CONFIG, [4], [32], 16)
    target = SpeedTarget(TKDForSequenceClassification(shape), 1.5, None, [])
    costs = Costs.from_price(shape, target.price)
    assert target.price(shape) == pytest.approx(1 + 1 + 0.5 * (2 + 3.2))
    assert (costs.heads, costs.neurons) == (pytest.approx([0.25]), pytest.approx([0.05]))


@pytest.mark.parametrize("kinds", [KINDS, ("heads", "neurons")])
def test_speedup_is_reached_and_hardly_exceeded(model, clock, kinds):
    target, masks = SpeedTarget(model, 2.0, None, [], kinds=kinds), Units.full(CONFIG, True)
    torch.manual_seed(0)
    order = removal_order(_random_scores(masks), masks, EQUAL, kinds)
    budget = target.budget(masks, order)
    left = prune_to_budget(lambda masks: target.price(masks.pruned_config(CONFIG)) <= budget, masks, order)
    unpruned, pruned = target.measure_latencies(CONFIG, left.pruned_config(CONFIG))
    assert 2.0 <= unpruned / pruned < 2.3


def _random_scores(masks: Units) -> Units:
    return masks.map(lambda mask: torch.rand(len(mask)))


def test_a_single_wrong_measurement_does_not_decide_the_budget(model, clock, monkeypatch):
    """The first measurement is nine times too fast; the chosen shape must still be fast enough."""
    target, masks = SpeedTarget(model, 2.0, None, []), Units.full(CONFIG, True)
    order = removal_order(_random_scores(masks), masks, EQUAL, ("neurons", "heads"))
    measure, errors = target.measure_latencies, iter([lambda latencies: [latencies[0] * 9, latencies[1]]])
    monkeypatch.setattr(target, "measure_latencies", lambda *shapes: next(errors, list)(measure(*shapes)))
    budget = target.budget(masks, order)
    left = prune_to_budget(lambda masks: target.price(masks.pruned_config(CONFIG)) <= budget, masks, order)
    unpruned, pruned = measure(CONFIG, left.pruned_config(CONFIG))
    assert 2.0 <= unpruned / pruned < 2.3


def test_speedup_out_of_reach_is_refused_with_the_largest_possible(model, clock):
    with pytest.raises(InputError, match=r"50 times as fast cannot be met .* is 9\.47 times as fast"):
        SpeedTarget(model, 50.0, None, [])
    with pytest.raises(InputError, match=r"a speedup of 0\.9 .* choose one above 1"):
        SpeedTarget(model, 0.9, None, [])


def test_prices_from_a_real_clock_are_positive_and_survive_a_checkpoint(model, tokenizer):
    texts = [("good film",), ("a very fine story",)]
    target, resumed = (SpeedTarget(model, 1.01, tokenizer, texts) for _ in range(2))
    costs = Costs.from_price(CONFIG, target.price)
    assert min(*costs.heads, *costs.neurons, costs.layers) > 0
    resumed.load_state_dict(target.state_dict())
    assert resumed.price(CONFIG) == target.price(CONFIG)
