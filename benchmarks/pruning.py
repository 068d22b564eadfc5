"""Pruning against fewer layers: what students of the same speed or size keep of their teacher.

    python benchmarks/pruning.py --teachers TEACHERS --data-dir DATA
    python benchmarks/pruning.py --quick

TEACHERS holds `sst2-teacher` and `mrpc-teacher`, MiniLM fine-tuned with `tkd-hf finetune`. Every student learns from
the same teacher for the same number of steps. Pruned students start as the whole teacher and are pruned while they
train; the others start as some of its layers. The students of one task and seed are timed in turns with their teacher,
on one text at a time, all in PyTorch and float32. A finished run is reused, so that an interrupted command continues.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from common import QUICK_TRAINING, environment, parser_of, read_options, save_rows, say, tiny_model, tiny_task
from tkd_hf import (
    DataArguments,
    DistillationTrainingArguments,
    PruningArguments,
    StudentArguments,
    benchmark,
    distill,
    evaluate,
    prune,
)


STEPS = {"sst2": 1500, "mrpc": 290}  # of 64 examples
ROUNDS = 200  # texts that are timed


@dataclass(frozen=True)
class Student:
    """One way to a smaller model: prune towards a target, or keep so many layers."""

    name: str
    pruning: PruningArguments | None = None
    layers: int | None = None


STUDENTS = (
    Student("pruned to 2× the speed", PruningArguments(target_speedup=2)),
    Student("3 layers", layers=3),
    Student("half the parameters, vocabulary too", PruningArguments(target_params=0.5, vocabulary=True)),
    Student("vocabulary alone, untrained", PruningArguments(vocabulary=True)),
    Student("pruned to 3× the speed", PruningArguments(target_speedup=3)),
    Student("2 layers", layers=2),
)
QUICK_STUDENTS = (
    Student("pruned to 0.9 of the parameters", PruningArguments(target_params=0.9, calibration=8)),
    Student("2 layers", layers=2),
)


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "runs/pruning")
    parser.add_argument("--teachers", type=Path, help="folder with TASK-teacher for each task")
    parser.add_argument("--tasks", nargs="+", choices=list(STEPS), default=list(STEPS), help="tasks to run (all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the students (0 1 2)")
    options = read_options(parser, arguments)
    if not options.teachers and not options.quick:
        parser.error("name the folder of the teachers with --teachers, or try --quick")

    training = {"save_strategy": "steps", "save_steps": 250, "save_total_limit": 1, "report_to": "none"}
    if options.quick:
        training, options.teachers, options.tasks = QUICK_TRAINING, options.work_dir, ["sst2"]
        tiny_model(options.teachers / "sst2-teacher", layers=4)
        options.data_dir = tiny_task(options.work_dir / "data", "sst2")
    students = QUICK_STUDENTS if options.quick else STUDENTS
    for seed in options.seeds:
        for task in options.tasks:
            teacher, data = str(options.teachers / f"{task}-teacher"), DataArguments(task, data_dir=options.data_dir)
            folders = []
            for student in students:
                say(f"{task}, seed {seed}: {student.name}")
                folders.append(options.work_dir / task / f"{student.name.replace(' ', '-')}-s{seed}")
                args = DistillationTrainingArguments(
                    str(folders[-1]), seed=seed, **{"max_steps": STEPS[task]} | training
                )
                make(student, teacher, data, args)
            rows = measure(teacher, data, folders, rounds=2 if options.quick else ROUNDS)
            about = {"task": task, "seed": seed, "steps": args.max_steps}
            save_rows(
                options.results,
                [about | {"student": student.name} | row for student, row in zip(students, rows, strict=True)],
                key=("task", "seed", "student"),
                section="pruning",
                command="python benchmarks/pruning.py --teachers TEACHERS --data-dir DATA",
            )


def make(student: Student, teacher: str, data: DataArguments, args: DistillationTrainingArguments) -> None:
    """Train a student into its folder, or reuse the finished run there."""
    if student.pruning:
        prune(teacher, data, args, student.pruning, resume=True)
    else:
        distill(teacher, data, args, StudentArguments(layers=student.layers), resume=True)
    for checkpoint in Path(args.output_dir).glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def measure(teacher: str, data: DataArguments, folders: list[Path], rounds: int) -> list[dict]:
    """Return what each student keeps of its teacher, and how much faster and smaller it is."""
    models = [str(folder) for folder in folders]
    evaluated, *students = evaluate(models, data, teacher).models
    timed = benchmark([teacher, *models], data, batch_sizes=(1,), lengths=(8,), rounds=rounds).models[1:]
    metric, value = next(iter(evaluated.metrics.items()))
    return [
        {
            "metric": metric,
            "teacher": value,
            "value": student.metrics[metric],
            "agreement": student.agreement,
            "speedup": cost.timing(1).speedup,
            "megabytes": student.megabytes,
            "teacher_megabytes": evaluated.megabytes,
            "parameters": student.parameters.total,
            **environment(),
        }
        for student, cost in zip(students, timed, strict=True)
    ]


if __name__ == "__main__":
    main()
