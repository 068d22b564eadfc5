"""Importance scores: compared with finite differences and sums by hand, and independent of the batch size."""

import pytest
import torch

from tkd_hf import InputError, student_from_teacher
from tkd_hf.pruning import IMPORTANCE, Gates
from tkd_hf.pruning.importance import activation, magnitude, taylor

from ..conftest import LABELS, TEXTS


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
