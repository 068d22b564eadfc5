"""Pruning of units: masked and compacted models return the same logits, and targets are met or refused.

Latencies come from a simulated clock, except in one test.
"""

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
)

from tkd_hf import InputError, TKDConfig, TKDForSequenceClassification, student_from_teacher
from tkd_hf.pruning.arguments import PruningArguments
from tkd_hf.pruning.ranking import Costs, prune_to_budget, removal_order
from tkd_hf.pruning.structured import Gates, compact
from tkd_hf.pruning.targets import ParameterTarget, SpeedTarget
from tkd_hf.pruning.units import Units, resized_config

from ..factories import TEXTS, WORDS, build_teacher, logits_of_texts


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


def some_masks(config, *kinds) -> Units:
    """Return masks that remove units of these kinds unevenly over the layers."""
    generator = torch.Generator().manual_seed(0)

    def remove_some(mask):
        removed = torch.rand(len(mask), generator=generator) < 0.4
        removed[0] = False
        return ~removed

    masks = Units.full(config, True)
    if "heads" in kinds:
        masks.heads[0][1] = masks.heads[2][0] = False
    if "neurons" in kinds:
        masks.neurons = [remove_some(mask) for mask in masks.neurons]
    if "layers" in kinds:
        masks.layers[1] = False
    if "hidden" in kinds:
        masks.hidden = remove_some(masks.hidden)
    return masks


@pytest.mark.parametrize("kinds", ["heads", "neurons", "layers", "hidden", "heads neurons layers hidden"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_compacted_model_returns_the_logits_of_the_masked_model(teacher, tokenizer, kinds, attention):
    student = student_from_teacher(teacher)
    student.set_attn_implementation(attention)
    student.tkd.compute_all_tokens = True  # as gates do, so that logits agree to the last bit
    masks, unpruned = some_masks(student.config, *kinds.split()), logits_of_texts(student, tokenizer)
    gates = Gates(student)
    torch.testing.assert_close(logits_of_texts(student, tokenizer), unpruned, atol=0, rtol=0)
    gates.set(masks)
    masked, small = logits_of_texts(student, tokenizer), compact(student, masks)
    assert (masked - unpruned).abs().max() > 0.01
    torch.testing.assert_close(masked, logits_of_texts(small, tokenizer), atol=1e-5, rtol=1e-5)
    assert small.num_parameters() < student.num_parameters()
    assert small.config.to_dict() == masks.pruned_config(student.config).to_dict()
    gates.remove()
    torch.testing.assert_close(logits_of_texts(student, tokenizer), unpruned, atol=0, rtol=0)


def electra():
    torch.manual_seed(0)
    fields = {"vocab_size": len(WORDS), "hidden_size": 16, "embedding_size": 8, "num_hidden_layers": 4}
    fields |= {"num_attention_heads": 2, "intermediate_size": 32, "initializer_range": 0.5}
    return ElectraForSequenceClassification(ElectraConfig(**fields))


def distilbert():
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=len(WORDS), dim=16, n_layers=4, n_heads=2, hidden_dim=32, initializer_range=0.5
    )
    return DistilBertForSequenceClassification(config)


@pytest.mark.parametrize("build", [electra, distilbert, lambda: build_teacher(kind=BertForMaskedLM)])
def test_every_architecture_can_be_masked_and_compacted(build, tokenizer):
    """The models cover factorised embeddings, no token types, other activations in the head, and tied embeddings."""
    student = student_from_teacher(build())
    masks = some_masks(student.config, "heads", "neurons", "layers", "hidden")
    gates = Gates(student)
    gates.set(masks)
    small = compact(student, masks)
    masked, compacted = logits_of_texts(student, tokenizer), logits_of_texts(small, tokenizer)
    if hasattr(small, "decoder"):  # logits at padding have no meaning
        real = tokenizer(TEXTS, padding=True, return_tensors="pt")["attention_mask"].bool()
        masked, compacted = masked[real], compacted[real]
        assert small.decoder.weight is small.get_input_embeddings().weight
    torch.testing.assert_close(masked, compacted, atol=1e-5, rtol=1e-5)


def test_recorded_hidden_states_of_a_masked_model_are_the_inputs_of_its_layers(teacher, tokenizer):
    """This also holds if the recording hooks are older than the gates, so objectives train on the masked states."""
    student = student_from_teacher(teacher)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    student(**batch, output_hidden_states=True)
    masks = some_masks(student.config, "layers")
    Gates(student).set(masks)
    with torch.no_grad():
        states = student(**batch, output_hidden_states=True).hidden_states
    torch.testing.assert_close(states[2], states[1])
    assert (states[3] - states[2]).abs().max() > 0.01


def test_masked_units_get_no_gradient(teacher, tokenizer):
    student = student_from_teacher(teacher)
    masks = some_masks(student.config, "heads", "neurons", "layers", "hidden")
    Gates(student).set(masks)
    student(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits.square().sum().backward()
    layer, heads = student.tkd.layers[0], masks.heads[0].repeat_interleave(student.config.head_dim)
    for module in (layer.attention.query, layer.attention.value):
        assert not module.weight.grad[~heads].any()
        assert module.weight.grad[heads].any()
    assert not layer.feed_forward.output.weight.grad[:, ~masks.neurons[0]].any()
    assert not student.tkd.embeddings.word_embeddings.weight.grad[:, ~masks.hidden].any()
    assert not any(weight.grad.any() for weight in student.tkd.layers[1].parameters())


def test_compacted_model_saves_loads_and_trains_on(teacher, tokenizer, tmp_path):
    student = student_from_teacher(teacher)
    small = compact(student, some_masks(student.config, "heads", "neurons", "layers", "hidden"))
    small.save_pretrained(tmp_path)
    loaded, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert type(loaded) is TKDForSequenceClassification
    torch.testing.assert_close(logits_of_texts(loaded, tokenizer), logits_of_texts(small, tokenizer), atol=0, rtol=0)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    optimizer, labels = torch.optim.SGD(loaded.parameters(), lr=1e-2), torch.tensor([0, 1] * 4)
    before = loaded(**batch, labels=labels).loss
    before.backward()
    optimizer.step()
    assert loaded(**batch, labels=labels).loss < before


@pytest.mark.filterwarnings("ignore::FutureWarning")  # raised by torch during its own export
def test_compacted_model_exports_to_onnx(teacher, tokenizer, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    student = student_from_teacher(teacher)
    small = compact(student, some_masks(student.config, "heads", "neurons", "layers", "hidden"))
    batch = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    path = tmp_path / "model.onnx"
    torch.onnx.export(small.eval(), (), path, kwargs=batch, dynamo=True, verbose=False)
    (logits,) = runtime.InferenceSession(path).run(None, {name: value.numpy() for name, value in batch.items()})
    torch.testing.assert_close(torch.from_numpy(logits), logits_of_texts(small, tokenizer), atol=1e-4, rtol=1e-4)
