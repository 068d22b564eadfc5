"""Importance: against what the loss does, against sums by hand, and the same however the data is batched."""

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


def test_taylor_is_the_change_of_the_loss(student, tokenizer):
    """By finite differences at one head, one neuron and one dimension, example by example."""
    gates = Gates(student)
    scores = taylor(gates, batches(tokenizer, 4), loss_of(student), hidden=True)
    assert student.training
    student.eval()
    single, step = batches(tokenizer, 1), 1e-2
    for kind, values, score in (
        ("heads", lambda gate: gate.heads[1], scores.heads[1]),
        ("neurons", lambda gate: gate.neurons[2], scores.neurons[2]),
        ("layers", lambda gate: gate.layers, scores.layers),
        ("hidden", lambda gate: gate.hidden, scores.hidden),
    ):
        changes = []
        for batch in single:
            sides = []
            for moved in (step, -step):
                with torch.no_grad(), gates.for_each_example(1, hidden=True):
                    values(gates._values)[..., 1] += moved
                    sides.append(student(**batch).loss.item())
            changes.append(((sides[0] - sides[1]) / (2 * step)) ** 2)
        assert score[1].item() == pytest.approx(sum(changes) / len(changes), rel=0.05), kind


@pytest.mark.parametrize("importance", IMPORTANCE)
def test_the_batch_size_does_not_matter(student, tokenizer, importance):
    gates = Gates(student)
    one, other = (IMPORTANCE[importance](gates, batches(tokenizer, size), loss_of(student), True) for size in (2, 8))
    for kind in ("heads", "neurons", "layers", "hidden"):
        torch.testing.assert_close(getattr(one, kind), getattr(other, kind), rtol=1e-4, atol=1e-6)
    assert all(weight.grad is None for weight in student.parameters())


def test_magnitude_by_hand(student):
    scores = magnitude(Gates(student), [], None)
    layer = student.tkd.layers[3]
    head = slice(student.config.head_dim, 2 * student.config.head_dim)
    rows = sum(module.weight[head].square().sum() for module in (layer.attention.query, layer.attention.key))
    rows += layer.attention.value.weight[head].square().sum() + layer.attention.output.weight[:, head].square().sum()
    assert scores.heads[3][1].item() == pytest.approx(rows.item())
    neuron = layer.feed_forward.intermediate.weight[5].square().sum()
    neuron += layer.feed_forward.output.weight[:, 5].square().sum()
    assert scores.neurons[3][5].item() == pytest.approx(neuron.item())
    rest = layer.attention_norm.weight.square().sum() + layer.feed_forward_norm.weight.square().sum()
    assert scores.layers[3].item() == pytest.approx(rest.item())
    assert not scores.hidden.any()


def test_activation_is_what_is_written(student, tokenizer):
    """What the block gives, less what it gives without the unit, squared over the real tokens."""
    student.eval()
    (batch,) = batches(tokenizer, 8)
    gates = Gates(student)
    scores = activation(gates, [batch], loss_of(student))
    real = batch["attention_mask"].bool()
    for module, score, drop in (
        (student.tkd.layers[1].attention.output, scores.heads[1][0], lambda masks: masks.heads[1]),
        (student.tkd.layers[1].feed_forward.output, scores.neurons[1][0], lambda masks: masks.neurons[1]),
    ):
        seen = []
        handle = module.register_forward_hook(lambda module, args, output, seen=seen: seen.append(output[real]))
        student(**batch)
        masks = gates.masks
        drop(masks)[0] = False
        gates.set(masks)
        student(**batch)
        drop(masks)[0] = True
        gates.set(masks)
        handle.remove()
        assert score.item() == pytest.approx((seen[0] - seen[1]).square().sum(-1).mean().item(), rel=1e-4)
    states = student(**batch, output_hidden_states=True).hidden_states
    changed = (states[2] - states[1])[real].square().sum(-1).mean()
    assert scores.layers[1].item() == pytest.approx(changed.item(), rel=1e-4)


def test_what_is_masked_is_worth_nothing(student, tokenizer):
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


def test_a_loss_without_gradient(student, tokenizer):
    def loss(batch):
        return student(**batch).loss * 0

    with pytest.raises(InputError, match="importance=taylor says nothing"):
        taylor(Gates(student), batches(tokenizer, 4), loss)
