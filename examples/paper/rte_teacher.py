"""The teacher of RTE: MiniLM alone stays at chance on its 2,490 pairs, so it is fine-tuned on MNLI first.

python examples/paper/rte_teacher.py MINILM DATA OUT SEED     # OUT/rte-teacher-s<SEED>, for `run.py --teachers OUT`

Of MNLI it takes DATA/mnli/train_subset.parquet and validation_matched.parquet, less 500 pairs that the model in between
is measured on.
"""

import sys
from pathlib import Path

from datasets import Dataset, concatenate_datasets

from study import TEACHER_LEARNING_RATE
from tkd_hf import FineTuningArguments
from tkd_hf.data.loading import DataArguments
from tkd_hf.data.tasks import get_task
from tkd_hf.stages.finetune import finetune


LEFT_OUT = 500


def main(encoder: str, data: Path, out: Path, seed: int) -> None:
    split_mnli(data / "mnli", out / "data" / "mnli")
    between = out / f"mnli-teacher-s{seed}"
    train(encoder, "mnli", out / "data", between, seed, epochs=2)
    train(str(between), "rte", data, out / f"rte-teacher-s{seed}", seed, epochs=5)


def split_mnli(found: Path, folder: Path) -> None:
    """Writes the pairs to learn from and those to measure on, in the layout of `--data-dir`."""
    columns = [*get_task("mnli").text_columns, "label"]
    parts = [
        Dataset.from_parquet(str(found / f"{name}.parquet")).select_columns(columns)
        for name in ("train_subset", "validation_matched")
    ]
    rows = concatenate_datasets(parts).shuffle(seed=0)
    folder.mkdir(parents=True, exist_ok=True)
    rows.select(range(LEFT_OUT, len(rows))).to_parquet(folder / "train.parquet")
    rows.select(range(LEFT_OUT)).to_parquet(folder / "validation_matched.parquet")


def train(model: str, task: str, data: Path, folder: Path, seed: int, epochs: int) -> None:
    args = FineTuningArguments(
        str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=32,
        learning_rate=TEACHER_LEARNING_RATE,
        seed=seed,
        save_strategy="epoch",
        save_total_limit=1,
        report_to="none",
    )
    record = finetune(model, DataArguments(task=task, data_dir=str(data)), args, resume=True)
    print(folder.name, record.metrics)


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:4]), int(sys.argv[4]))
