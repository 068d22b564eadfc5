"""One process of distributed training or labelling; test_distributed.py launches it.

python -m tests.training.distributed_training FOLDER BATCH_SIZE [CHECKPOINT]
python -m tests.training.distributed_training TEACHER LABELS.safetensors
"""

import sys
from pathlib import Path

import torch
from datasets import Dataset
from safetensors.torch import save_file

from tkd_hf import DistillationTrainer, DistillationTrainingArguments, TKDForSequenceClassification
from tkd_hf.commands import label as stages_label
from tkd_hf.core.processes import destroy_process_group
from tkd_hf.data.tokenization import tokenize
from tkd_hf.models.configuration_tkd import TKDConfig

from ..factories import LABELS, QUIET, TEXTS, WORDS, build_teacher, build_tokenizer


OBJECTIVES = {"logits": 0.5, "hard": 0.5, "hidden": 1.0, "relations": 1.0}
FIXED = QUIET | {
    "optim": "sgd",
    "learning_rate": 0.05,
    "max_grad_norm": 0.0,
    "warmup_steps": 0,
    "num_train_epochs": 3,
    "train_sampling_strategy": "sequential",
    "save_strategy": "steps",
    "save_steps": 1,
}


def train(folder: str, batch_size: int, checkpoint: str | None = None):
    torch.manual_seed(0)
    student = TKDForSequenceClassification(
        TKDConfig(
            vocab_size=len(WORDS),
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=32,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            id2label={0: "negative", 1: "positive"},
        )
    )
    tokenizer = build_tokenizer()
    trainer = DistillationTrainer(
        student,
        DistillationTrainingArguments(folder, objectives=OBJECTIVES, per_device_train_batch_size=batch_size, **FIXED),
        teacher_model=build_teacher(),
        train_dataset=tokenize(Dataset.from_dict({"text": TEXTS, "label": LABELS}), tokenizer),
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.is_world_process_zero():
        logged = [entry for entry in trainer.state.log_history if "loss" in entry]
        losses = torch.tensor([[entry[f"loss_{name}"] for name in OBJECTIVES] for entry in logged])
        state = {**trainer.model.state_dict(), **trainer.objective.modules.state_dict(), "losses": losses}
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, f"{folder}/end.safetensors")


def label(teacher: str, path: str):
    stages_label.EXAMPLES_PER_SAVE = 3  # so that the last part has one row, and one of two processes has nothing to do
    rows = tokenize(Dataset.from_dict({"text": TEXTS[:7]}), build_tokenizer())
    _, computed = stages_label.complete_soft_labels(Path(path), teacher, "r", [rows])
    assert computed == 7


if __name__ == "__main__":
    if sys.argv[2].isdigit():
        train(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
    else:
        label(*sys.argv[1:])
    destroy_process_group()
