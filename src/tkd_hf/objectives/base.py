"""What an objective is, and how values are averaged so that padding and the composition of a batch do not count."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PretrainedConfig

from ..signals import Signals
from ..training_args import DistillationTrainingArguments


# Problem types beside those of transformers' sequence classification.
TOKEN_CLASSIFICATION, MASKED_LM, ENCODER = "token_classification", "masked_lm", "encoder"
PER_TOKEN = (TOKEN_CLASSIFICATION, MASKED_LM)


@dataclass(frozen=True)
class ObjectiveSetup:
    """What an objective is built from.

    Args:
        args: the training arguments.
        problem_type: one of transformers' three, or `"token_classification"`, `"masked_lm"`, `"encoder"`.
        student, teacher: their configurations; no teacher where its answers are read from soft labels.
        layer_map: the teacher's layer (from 0) of each student layer; empty without a teacher.
    """

    args: DistillationTrainingArguments
    problem_type: str
    student: PretrainedConfig | None = None
    teacher: PretrainedConfig | None = None
    layer_map: tuple[int, ...] = ()


class Objective(nn.Module):
    """One component of the loss: a scalar, unweighted, the mean over the batch of each example's own value.

    A subclass names what it needs in class attributes, builds itself from an `ObjectiveSetup`, and computes `forward`.
    What it learns itself (projections) are its parameters; the trainer optimises, synchronises and checkpoints them.
    """

    needs_teacher = True
    needs_labels = False
    features: tuple[str, ...] = ()  # of `tkd_hf.signals.FEATURES`; they need a live teacher

    @classmethod
    def build(cls, setup: ObjectiveSetup) -> "Objective":
        raise NotImplementedError

    def set_progress(self, progress: float) -> None:
        """Called before each step with the share of training that is done, for what is scheduled."""

    def forward(self, student: Signals, teacher: Signals | None, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        raise NotImplementedError


def real_tokens(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """(batch, length) bool: where there is a token and not padding."""
    mask = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"], dtype=torch.bool) if mask is None else mask.bool()


def mean_over_tokens(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over an example's own tokens, then over the examples: long ones weigh as much as short ones.

    Args:
        values: (batch, length).
        mask: (batch, length) bool, the tokens that count. An example without any counts 0.
    """
    values = values.masked_fill(~mask, 0.0)
    return (values.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).mean()


def rows_and_weights(
    logits: torch.Tensor, batch: dict[str, torch.Tensor], problem_type: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The rows of logits that count, their weights in the mean over the batch, and the mask that chose them.

    Args:
        logits: (batch, labels); or (batch, length, labels), or those of the labelled tokens alone, (tokens, labels).
        batch: a token counts where `labels` is not -100, or without labels wherever it is real.
        problem_type: tells a row an example from a row a token.

    Returns:
        rows (n, labels); weights (n,), so that `(weights * values).sum()` is the mean over each example's tokens, then
        over examples; and (batch, length) bool, or `None` for a row an example.
    """
    if problem_type not in PER_TOKEN:
        return logits, logits.new_full((len(logits),), 1 / len(logits)), None
    labels = batch.get("labels")
    mask = real_tokens(batch) if labels is None else labels != -100
    weights = 1 / (mask.sum(dim=1)[mask.nonzero()[:, 0]] * len(mask))
    return (logits[mask] if logits.dim() == 3 else logits), weights, mask
