"""Helpers for tests that train: quiet arguments, small students, and results to compare."""

import torch
from transformers import PreTrainedModel

from tkd_hf import DistillationTrainingArguments, student_from_teacher

from .conftest import TEXTS


QUIET = {
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
    "logging_steps": 1,
    "save_strategy": "no",
    "save_total_limit": None,  # tests resume from any checkpoint
}


def arguments(tmp_path, **fields) -> DistillationTrainingArguments:
    common = {"per_device_train_batch_size": 4, "num_train_epochs": 2, "train_sampling_strategy": "random"}
    return DistillationTrainingArguments(str(tmp_path / "run"), **QUIET | common | fields)


def student_of(teacher, dropout=0.0, **kwargs) -> PreTrainedModel:
    """Return a two-layer student; every call gives the same weights."""
    torch.manual_seed(7)
    fields = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return student_from_teacher(teacher, num_hidden_layers=2, **fields, **kwargs)


def losses(trainer) -> list[float]:
    """Train, and return the loss of each step."""
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights(trainer) -> torch.Tensor:
    """Return all trainable weights as one vector."""
    return torch.cat([weight.detach().flatten() for weight in trainer.model.parameters() if weight.requires_grad])


def logits_of_texts(model, tokenizer) -> torch.Tensor:
    """Return a model's logits for the test texts, without gradients."""
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**batch).logits
