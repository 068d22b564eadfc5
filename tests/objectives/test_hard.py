"""The hard loss is transformers' own, and leaves out what has no label."""

import pytest
import torch
from torch.nn import functional as F

from tkd_hf.objectives import HardLoss
from tkd_hf.signals import Signals

from ..conftest import build_teacher


SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


@pytest.mark.parametrize(
    ("kind", "labels", "count"),
    [
        (SINGLE, torch.tensor([1, 0]), 2),
        (MULTI, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]), 3),
        (REGRESSION, torch.tensor([0.5, -1.0]), 1),
    ],
)
def test_it_is_that_of_transformers(kind, labels, count):
    ids = torch.tensor([[2, 7, 9, 3], [2, 8, 9, 3]])
    model = build_teacher(tuple("abc"[:count]) if count > 1 else (), problem_type=kind)
    output = model(input_ids=ids, labels=labels)
    torch.testing.assert_close(HardLoss(kind)(Signals(output.logits), None, {"labels": labels}), output.loss)


@pytest.mark.parametrize(
    ("kind", "logits", "labels", "unknown"),
    [
        (SINGLE, torch.tensor([[1.0, 2.0], [0.5, 0.0]]), torch.tensor([1, -100]), -100),
        (MULTI, torch.tensor([[1.0, 2.0], [0.5, 0.0]]), torch.tensor([[1.0, 0.0], [torch.nan] * 2]), torch.nan),
        (REGRESSION, torch.tensor([[1.0], [0.5]]), torch.tensor([2.0, torch.nan]), torch.nan),
    ],
)
def test_examples_without_a_label_add_nothing(kind, logits, labels, unknown):
    logits.requires_grad_()
    loss = HardLoss(kind)(Signals(logits), None, {"labels": labels})
    alone = HardLoss(kind)(Signals(logits[:1]), None, {"labels": labels[:1]})
    torch.testing.assert_close(loss, alone / 2)  # the mean is over the batch, labelled or not
    loss.backward()
    assert logits.grad[1].eq(0).all()
    assert logits.grad.isfinite().all()


def test_tokens_are_averaged_example_by_example():
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[-100, 1, 2], [0, -100, -100]])
    each = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    expected = (each[0, 1:].mean() + each[1, 0]) / 2
    hard = HardLoss("token_classification")
    torch.testing.assert_close(hard(Signals(logits), None, {"labels": labels}), expected)
    selected = Signals(logits[labels != -100])
    torch.testing.assert_close(HardLoss("masked_lm")(selected, None, {"labels": labels}), expected)


def test_label_smoothing():
    logits, labels = torch.tensor([[2.0, -1.0]]), torch.tensor([0])
    smoothed = HardLoss(SINGLE, label_smoothing=0.1)(Signals(logits), None, {"labels": labels})
    log_probs = logits.log_softmax(-1)[0]
    assert smoothed.item() == pytest.approx(-(0.95 * log_probs[0] + 0.05 * log_probs[1]).item(), rel=1e-6)


def test_multi_hot_labels_for_single_label_training_are_refused():
    with pytest.raises(ValueError, match=r"torch.float32 .*problem_type='multi_label_classification'"):
        HardLoss(SINGLE)(Signals(torch.zeros(1, 2)), None, {"labels": torch.tensor([[1.0, 0.0]])})
