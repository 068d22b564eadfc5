"""Distil and reload a tiny student with an installed wheel; `make package` runs this in a bare environment."""

import tempfile

from datasets import Dataset
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

import tkd_hf
from tkd_hf import DistillationTrainer, DistillationTrainingArguments, TKDForSequenceClassification


def main():
    assert "site-packages" in tkd_hf.__file__, f"{tkd_hf.__file__} is not an installed wheel"
    config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    teacher = BertForSequenceClassification(config)
    masks = {"attention_mask": [[1, 1, 1]] * 4}
    rows = Dataset.from_dict({"input_ids": [[1, 2, 3]] * 4, "labels": [0, 1, 0, 1]} | masks)
    with tempfile.TemporaryDirectory() as folder:
        args = DistillationTrainingArguments(folder, max_steps=2, report_to="none", use_cpu=True, bf16=False)
        student = TKDForSequenceClassification.from_teacher(teacher, num_hidden_layers=1)
        trainer = DistillationTrainer(model=student, teacher_model=teacher, args=args, train_dataset=rows)
        trainer.train()
        trainer.save_model(folder)
        print(type(AutoModelForSequenceClassification.from_pretrained(folder)).__name__, "from", tkd_hf.__version__)


if __name__ == "__main__":
    main()
