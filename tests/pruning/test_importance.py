"""Importance scores equal those computed by hand, and units are removed in their order."""

import pytest
import torch

from tkd_hf import InputError, TKDConfig, TKDForSequenceClassification, student_from_teacher
from tkd_hf.pruning.importance import IMPORTANCE, activation, magnitude, taylor
from tkd_hf.pruning.ranking import Costs, prune_to_budget, removal_order, remove_units
from tkd_hf.pruning.structured import Gates
from tkd_hf.pruning.targets import ParameterTarget
from tkd_hf.pruning.units import MINIMUM_UNITS, Units

from ..factories import LABELS, TEXTS


@pytest.fixture
def student(teacher):
    return student_from_teacher(teacher, hidden_dropout_prob=0.1).train()


def batches(tokenizer, size):
    rows = range(0, len(TEXTS), size)
    encoded = [tokenizer(TEXTS[i : i + size], padding=True, return_tensors="pt") for i in rows]
    labels = [torch.tensor(LABELS[i : i + size]) for i in rows]
    return [{**batch, "labels": codes} for batch, codes in zip(encoded, labels, strict=True)]


def loss_of(student):
    return lambda batch: student(**batch).loss


def test_taylor_score_is_the_squared_change_of_the_loss(student, tokenizer):
    """Compared with finite differences per example, at one head, one neuron, one layer and one hidden dimension."""
    gates = Gates(student)
    scores = taylor(gates, batches(tokenizer, 4), loss_of(student), hidden=True)
    assert student.training
    student.eval()
    single_examples, step = batches(tokenizer, 1), 1e-2
    for kind, values, score in (
        ("heads", lambda gate: gate.heads[1], scores.heads[1]),
        ("neurons", lambda gate: gate.neurons[2], scores.neurons[2]),
        ("layers", lambda gate: gate.layers, scores.layers),
        ("hidden", lambda gate: gate.hidden, scores.hidden),
    ):
        squares = []
        for batch in single_examples:
            losses = []
            for difference in (step, -step):
                with torch.no_grad(), gates.for_each_example(1, hidden=True):
                    values(gates._values)[..., 1] += difference
                    losses.append(student(**batch).loss.item())
            squares.append(((losses[0] - losses[1]) / (2 * step)) ** 2)
        assert score[1].item() == pytest.approx(sum(squares) / len(squares), rel=0.05), kind


@pytest.mark.parametrize("importance", IMPORTANCE)
def test_scores_do_not_depend_on_the_batch_size(student, tokenizer, importance):
    gates, score = Gates(student), IMPORTANCE[importance]
    small_batches, large_batch = (score(gates, batches(tokenizer, size), loss_of(student), True) for size in (2, 8))
    for kind in ("heads", "neurons", "layers", "hidden"):
        torch.testing.assert_close(getattr(small_batches, kind), getattr(large_batch, kind), rtol=1e-4, atol=1e-6)
    assert all(weight.grad is None for weight in student.parameters())


def test_magnitude_equals_sums_of_squared_weights_by_hand(student):
    scores = magnitude(Gates(student), [], None)
    layer = student.tkd.layers[3]
    head = slice(student.config.head_dim, 2 * student.config.head_dim)
    rows = sum(module.weight[head].square().sum() for module in (layer.attention.query, layer.attention.key))
    rows += layer.attention.value.weight[head].square().sum() + layer.attention.output.weight[:, head].square().sum()
    assert scores.heads[3][1].item() == pytest.approx(rows.item())
    neuron = layer.feed_forward.intermediate.weight[5].square().sum()
    neuron += layer.feed_forward.output.weight[:, 5].square().sum()
    assert scores.neurons[3][5].item() == pytest.approx(neuron.item())
    norms = layer.attention_norm.weight.square().sum() + layer.feed_forward_norm.weight.square().sum()
    assert scores.layers[3].item() == pytest.approx(norms.item())
    assert not scores.hidden.any()


def test_activation_score_is_the_squared_output_of_the_unit(student, tokenizer):
    """The output of a unit is the output of its block minus the output of the block without the unit."""
    student.eval()
    (batch,) = batches(tokenizer, 8)
    gates = Gates(student)
    scores = activation(gates, [batch], loss_of(student))
    real = batch["attention_mask"].bool()
    for module, score, masks_of_kind in (
        (student.tkd.layers[1].attention.output, scores.heads[1][0], lambda masks: masks.heads[1]),
        (student.tkd.layers[1].feed_forward.output, scores.neurons[1][0], lambda masks: masks.neurons[1]),
    ):
        outputs = []
        handle = module.register_forward_hook(
            lambda module, args, output, outputs=outputs: outputs.append(output[real])
        )
        student(**batch)
        masks = gates.masks
        masks_of_kind(masks)[0] = False
        gates.set(masks)
        student(**batch)
        masks_of_kind(masks)[0] = True
        gates.set(masks)
        handle.remove()
        assert score.item() == pytest.approx((outputs[0] - outputs[1]).square().sum(-1).mean().item(), rel=1e-4)
    states = student(**batch, output_hidden_states=True).hidden_states
    layer_output = (states[2] - states[1])[real].square().sum(-1).mean()
    assert scores.layers[1].item() == pytest.approx(layer_output.item(), rel=1e-4)


def test_masked_units_score_zero(student, tokenizer):
    gates = Gates(student)
    masks = gates.masks
    masks.heads[0][1] = masks.neurons[3][:5] = masks.hidden[2] = False
    gates.set(masks)
    for importance in IMPORTANCE.values():
        scores = importance(gates, batches(tokenizer, 4), loss_of(student), True)
        assert scores.heads[0][1] == 0
        assert not scores.neurons[3][:5].any()
        assert scores.hidden[2] == 0
        assert scores.heads[0][0] > 0
        assert scores.neurons[3][5:].any()


def test_taylor_refuses_a_loss_without_gradient(student, tokenizer):
    def loss(batch):
        return student(**batch).loss * 0

    with pytest.raises(InputError, match=r"importance=taylor cannot rank .*choose importance=activation"):
        taylor(Gates(student), batches(tokenizer, 4), loss)


CONFIG = TKDConfig(
    vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=8, head_dim=4
)


def scores(heads, neurons, hidden=None) -> Units:
    hidden = torch.arange(16.0) if hidden is None else hidden
    return Units([torch.tensor(row) for row in heads], [torch.tensor(row) for row in neurons], torch.zeros(2), hidden)


def test_units_are_removed_in_order_of_importance_per_cost():
    """A head costs as much as four neurons here. One head and four neurons per layer stay, and all layers."""
    heads = [[4.0, 40.0, 1.0, 9.0], [80.0, 2.0, 3.0, 4.0]]
    neurons = [[2.0, 3.0] + [50.0] * 6, [0.3] * 2 + [60.0] * 6]
    costs = Costs([4.0] * 2, [1.0] * 2, 0.0, 1.0)
    order = removal_order(scores(heads, neurons), Units.full(CONFIG, True), costs, ("heads", "neurons"))
    assert order[:5] == [("heads", 0, 2), ("neurons", 1, 0), ("neurons", 1, 1), ("heads", 1, 1), ("heads", 1, 2)]
    masks = remove_units(Units.full(CONFIG, True), order)
    assert [mask.sum().item() for mask in masks.heads] == [MINIMUM_UNITS["heads"]] * 2
    assert [mask.sum().item() for mask in masks.neurons] == [MINIMUM_UNITS["neurons"]] * 2
    assert (masks.heads[0][1], masks.heads[1][0]) == (True, True)
    assert masks.hidden.all()
    assert masks.layers.all()


def test_layer_is_removed_if_its_remaining_units_do_not_justify_its_cost():
    """The layer itself costs 10. After its worthless units are removed, one head and four good neurons are left."""
    importance = scores([[0.0] * 4, [9.0] * 4], [[0.0] * 4 + [2.0] * 4, [9.0] * 8])
    order = removal_order(
        importance, Units.full(CONFIG, True), Costs([1.0] * 2, [1.0] * 2, 10.0, 1.0), ("heads", "neurons", "layers")
    )
    worthless_units, index = 3 + 4, order.index(("layers", 0, 0))
    assert index == worthless_units  # 8 / (1 + 4 + 10) is less than 9, the ratio of the next unit
    assert all(kind != "layers" and layer == 1 for kind, layer, _ in order[index + 1 :])
    assert remove_units(Units.full(CONFIG, True), order).layers.tolist() == [False, True]


def test_masked_units_are_not_ranked():
    masks = Units.full(CONFIG, True)
    masks.layers[0] = masks.heads[1][0] = masks.hidden[3] = False
    order = removal_order(
        Units.full(CONFIG, 1.0), masks, Costs([1], [1], 1, 1), ("heads", "neurons", "layers", "hidden")
    )
    assert not {("heads", 1, 0), ("hidden", 0, 3), ("layers", 1, 0)} & set(order)
    assert all(layer == 1 for kind, layer, _ in order if kind in ("heads", "neurons"))
    assert sum(kind == "hidden" for kind, _, _ in order) == 15 - MINIMUM_UNITS["hidden"]


def test_costs_of_a_parameter_target_equal_parameters_counted_by_hand():
    target = ParameterTarget(TKDForSequenceClassification(CONFIG), 0.9)
    costs = Costs.from_price(CONFIG, target.price)
    assert costs.heads == [4 * 16 * 4 + 3 * 4] * 2
    assert costs.neurons == [2 * 16 + 1] * 2
    assert costs.layers == 2 * 16 + 4 * 16  # two output biases and two norms
    tables = 20 + 512 + 2 + 2  # words, positions, token types, norm
    layers = 2 * (4 * 16 + 1 + 2 * 8 + 1 + 4)
    head = 2 * 16 + 1 + 1 + 2  # the dense layer is square, and there are two labels
    assert costs.hidden == tables + layers + head


def test_no_more_units_are_removed_than_the_budget_requires():
    order = removal_order(
        Units.full(CONFIG, 1.0), Units.full(CONFIG, True), Costs([1] * 2, [1] * 2, 1, 1), ("neurons",)
    )
    left = prune_to_budget(
        lambda masks: sum(mask.sum() for mask in masks.neurons) <= 13, Units.full(CONFIG, True), order
    )
    assert sum(mask.sum() for mask in left.neurons) == 13


@pytest.mark.parametrize("share", [0.9, 0.7, 0.5])
def test_pruned_model_meets_the_target_within_one_unit(share):
    model = TKDForSequenceClassification(CONFIG)
    kinds = ("heads", "neurons", "hidden")
    target = ParameterTarget(model, share, kinds=kinds)
    torch.manual_seed(0)
    masks = Units.full(CONFIG, True)
    importance = Units.full(CONFIG, 1.0).map(torch.rand_like)
    costs = Costs.from_price(CONFIG, target.price)
    order = removal_order(importance, masks, costs, kinds)
    left = prune_to_budget(
        lambda masks: target.price(masks.pruned_config(CONFIG)) <= target.budget(masks, order), masks, order
    )
    limit, parameters = share * model.num_parameters(), target.price(left.pruned_config(CONFIG))
    assert limit - max(*costs.heads, *costs.neurons, costs.hidden) < parameters <= limit
