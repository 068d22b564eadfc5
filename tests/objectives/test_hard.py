"""HardLoss is the loss of transformers, and skips examples and tokens without a label."""

import pytest
import torch
from torch.nn import functional as F

from tkd_hf.models.signals import Signals
from tkd_hf.objectives import HardLoss

from ..conftest import build_teacher


SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


@pytest.mark.parametrize(
    ("problem_type", "labels", "num_labels"),
    [
        (SINGLE, torch.tensor([1, 0]), 2),
        (MULTI, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]), 3),
        (REGRESSION, torch.tensor([0.5, -1.0]), 1),
    ],
)
def test_hard_loss_equals_the_loss_of_a_transformers_head(problem_type, labels, num_labels):
    ids = torch.tensor([[2, 7, 9, 3], [2, 8, 9, 3]])
    model = build_teacher(tuple("abc"[:num_labels]) if num_labels > 1 else (), problem_type=problem_type)
    output = model(input_ids=ids, labels=labels)
    torch.testing.assert_close(HardLoss(problem_type)(Signals(output.logits), None, {"labels": labels}), output.loss)


@pytest.mark.parametrize(
    ("problem_type", "logits", "labels"),
    [
        (SINGLE, torch.tensor([[1.0, 2.0], [0.5, 0.0]]), torch.tensor([1, -100])),
        (MULTI, torch.tensor([[1.0, 2.0], [0.5, 0.0]]), torch.tensor([[1.0, 0.0], [torch.nan] * 2])),
        (REGRESSION, torch.tensor([[1.0], [0.5]]), torch.tensor([2.0, torch.nan])),
    ],
)
def test_examples_without_a_label_contribute_neither_loss_nor_gradient(problem_type, logits, labels):
    logits.requires_grad_()
    loss = HardLoss(problem_type)(Signals(logits), None, {"labels": labels})
    loss_of_labelled = HardLoss(problem_type)(Signals(logits[:1]), None, {"labels": labels[:1]})
    torch.testing.assert_close(loss, loss_of_labelled / 2)  # the mean is over all examples, labelled or not
    loss.backward()
    assert logits.grad[1].eq(0).all()
    assert logits.grad.isfinite().all()


def test_token_losses_are_averaged_per_example_first():
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[-100, 1, 2], [0, -100, -100]])
    token_losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    expected = (token_losses[0, 1:].mean() + token_losses[1, 0]) / 2
    hard = HardLoss("token_classification")
    torch.testing.assert_close(hard(Signals(logits), None, {"labels": labels}), expected)
    selected = Signals(logits[labels != -100])
    torch.testing.assert_close(HardLoss("masked_lm")(selected, None, {"labels": labels}), expected)


def test_label_smoothing_spreads_its_share_over_all_classes():
    logits, labels = torch.tensor([[2.0, -1.0]]), torch.tensor([0])
    smoothed = HardLoss(SINGLE, label_smoothing=0.1)(Signals(logits), None, {"labels": labels})
    log_probs = logits.log_softmax(-1)[0]
    assert smoothed.item() == pytest.approx(-(0.95 * log_probs[0] + 0.05 * log_probs[1]).item(), rel=1e-6)


def test_float_labels_are_refused_for_single_label_classification():
    with pytest.raises(ValueError, match=r"torch.float32 .*problem_type='multi_label_classification'"):
        HardLoss(SINGLE)(Signals(torch.zeros(1, 2)), None, {"labels": torch.tensor([[1.0, 0.0]])})
