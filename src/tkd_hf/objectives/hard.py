"""The hard loss: the task's own, against the labels."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.utils import ModelOutput

from ..training_args import DistillationTrainingArguments


class HardLoss(nn.Module):
    """What an ordinary fine-tuning minimises: cross-entropy, binary cross-entropy or squared error, by problem type.

    Inputs:
        `student.logits` (batch, labels); `batch["labels"]`: (batch,) codes, (batch,) scores, or (batch, labels)
        multi-hot floats.

    Requirements:
        labels. `label_smoothing_factor` of the training arguments applies to single-label classification.

    Example:

    ```python
    >>> import torch
    >>> from transformers.modeling_outputs import SequenceClassifierOutput as Output
    >>> from tkd_hf import DistillationTrainingArguments
    >>> from tkd_hf.objectives import HardLoss
    >>> hard = HardLoss(DistillationTrainingArguments("x", report_to="none"), "single_label_classification")
    >>> round(hard(Output(logits=torch.zeros(1, 2)), None, {"labels": torch.tensor([1])}).item(), 4)  # log 2
    0.6931

    ```
    """

    needs_teacher = False
    needs_labels = True

    def __init__(self, args: DistillationTrainingArguments, problem_type: str):
        super().__init__()
        self.problem_type = problem_type
        self.label_smoothing = args.label_smoothing_factor

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: dict) -> torch.Tensor:
        logits, labels = student.logits.float(), batch["labels"]
        if self.problem_type == "regression":
            return F.mse_loss(logits.squeeze(-1), labels.float())
        if self.problem_type == "multi_label_classification":
            return F.binary_cross_entropy_with_logits(logits, labels.float())
        if labels.is_floating_point():
            raise ValueError(
                f"labels of type {labels.dtype} with shape {tuple(labels.shape)} are no class codes; for several "
                "labels an example set config.problem_type='multi_label_classification' on the student"
            )
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
