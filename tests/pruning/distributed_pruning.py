"""One process of a distributed training with pruning: `python -m tests.pruning.distributed_pruning FOLDER`."""

import json
import sys
from pathlib import Path

from datasets import Dataset

from tkd_hf import DistillationTrainer
from tkd_hf.data.features import tokenize
from tkd_hf.pruning import ParameterTarget, PruningCallback, Schedule, StructuredPruner, calibration_data

from ..conftest import LABELS, TEXTS, build_teacher, build_tokenizer
from ..training import arguments, student_of


def main(folder: Path):
    teacher, tokenizer = build_teacher(), build_tokenizer()
    trainer = DistillationTrainer(
        student_of(teacher),
        arguments(folder, per_device_train_batch_size=2, per_device_eval_batch_size=2, num_train_epochs=4),
        teacher_model=teacher,
        train_dataset=tokenize(Dataset.from_dict({"text": TEXTS, "label": LABELS}), tokenizer),
        processing_class=tokenizer,
    )
    pruner = StructuredPruner(ParameterTarget(trainer.model, 0.6), *calibration_data(trainer, 4))
    trainer.add_callback(PruningCallback(trainer, pruner, Schedule("cubic", num_prunings=3)))
    trainer.train()
    seen = [batch["input_ids"].tolist() for batch in pruner._batches]
    state = {"masks": pruner.state_dict(), "seen": seen, "left": trainer.model.num_parameters()}
    (folder / f"{trainer.args.process_index}.json").write_text(json.dumps(state))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
