"""Pruning against leaving layers out: what is kept of the teacher, at what measured speed and size.

    python examples/pruning.py --teachers TEACHERS --data-dir DATA --output-dir runs/pruning

TEACHERS holds `sst2-teacher` and `mrpc-teacher` (`tkd-hf finetune MINILM --task TASK`), DATA `<task>/train.parquet`
and `validation.parquet` with the Hub's columns; without it they come from the Hub. Every student learns from the same
cached answers for the same number of steps: pruned ones start as the whole teacher and are pruned on the way, the
others start as some of its layers. A finished run is taken as it is, one that was interrupted goes on, and `--seeds`,
`--tasks` and `--students` choose some.

The students of a task and seed are measured together, in turns, into `<results-dir>/pruning/<task>-s<seed>.json`; all
such records that are there, also those of other machines, make pruning.{json,md,png}.
"""

import argparse
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from seeds import spread, spread_of_teachers, written
from tkd_hf import DistillationTrainingArguments
from tkd_hf.cli.output import announce, write_json
from tkd_hf.data.loading import DataArguments, load_split
from tkd_hf.evaluation.benchmark import median_latencies
from tkd_hf.evaluation.runners import load_runner
from tkd_hf.hardware import describe_hardware, describe_software
from tkd_hf.reporting.figures import BLUE, GREY, RED, plt, save
from tkd_hf.stages.distill import distill
from tkd_hf.stages.evaluate import evaluate, first_texts
from tkd_hf.stages.prune import PruningArguments, prune
from tkd_hf.stages.run_folder import StageRecord
from tkd_hf.stages.student import StudentArguments


STEPS = {"sst2": 1500, "mrpc": 290}  # of 64: 1.4 and 5 passes
TEXTS = 200  # timed one at a time
COMMON = {"report_to": "none", "save_strategy": "steps", "save_steps": 250, "save_total_limit": 1, "logging_steps": 50}


@dataclass(frozen=True)
class Student:
    """One way to a smaller model: pruned towards a target, or of so many layers."""

    name: str
    pruning: PruningArguments | None = None
    layers: int | None = None

    def make(self, teacher: str, data: DataArguments, folder: Path, steps: int, seed: int) -> StageRecord:
        args = DistillationTrainingArguments(str(folder), max_steps=steps, seed=seed, **COMMON)
        if self.pruning:
            record = prune(teacher, data, args, self.pruning, resume=True)
        else:
            record = distill(teacher, data, args, StudentArguments(layers=self.layers), resume=True)
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        return record


STUDENTS = (  # in the order in which they tell most
    Student("pruned to 2× the speed", PruningArguments(target_speedup=2)),
    Student("3 layers", layers=3),
    Student("half the parameters, vocabulary too", PruningArguments(target_params=0.5, vocabulary=True)),
    Student("vocabulary alone, untrained", PruningArguments(vocabulary=True)),
    Student("pruned to 3× the speed", PruningArguments(target_speedup=3)),
    Student("2 layers", layers=2),
)
BY_SPEED = {"pruned by structure": ("pruned to", "o", "-", BLUE), "fewer layers": ("layers", "s", "--", RED)}
BY_SIZE = {"half the parameters, vocabulary too": "D", "vocabulary alone, untrained": "P"}


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teachers", required=True, type=Path)
    parser.add_argument("--data-dir")
    parser.add_argument("--output-dir", type=Path, default="runs/pruning")
    parser.add_argument("--results-dir", type=Path, default="examples/results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tasks", nargs="+", default=list(STEPS))
    parser.add_argument("--students", nargs="+", default=[student.name for student in STUDENTS])
    options = parser.parse_args(arguments)

    records = options.results_dir / "pruning"
    records.mkdir(parents=True, exist_ok=True)
    chosen = [student for student in STUDENTS if student.name in options.students]
    for seed in options.seeds:
        for task in options.tasks:
            data, teacher = (
                DataArguments(task=task, data_dir=options.data_dir),
                str(options.teachers / f"{task}-teacher"),
            )
            for student in chosen:
                announce(f"{task}, seed {seed}: {student.name}")
                student.make(teacher, data, folder_of(options, task, student, seed), STEPS[task], seed)
            record = measured(task, teacher, data, {one.name: folder_of(options, task, one, seed) for one in STUDENTS})
            write_json(records / f"{task}-s{seed}.json", record | {"seed": seed})
    write(options.results_dir)


def folder_of(options: argparse.Namespace, task: str, student: Student, seed: int) -> Path:
    name = "".join(letter if letter.isalnum() or letter == "." else "-" for letter in student.name)
    return options.output_dir / task / f"{name}-s{seed}"


def measured(task: str, teacher: str, data: DataArguments, folders: dict[str, Path]) -> dict:
    """The finished ones of a seed's students, each beside the teacher; their speeds are taken in turns, in one run."""
    folders = {name: folder for name, folder in folders.items() if is_finished(folder)}
    runners = [load_runner(str(place)) for place in (teacher, *folders.values())]
    whole, *milliseconds = median_latencies(runners, first_texts(load_split(data, "eval")[0], TEXTS))
    rows = []
    for (name, folder), time in zip(folders.items(), milliseconds, strict=True):
        one = evaluate(str(folder), data, teacher).models[1]
        rows.append(
            {
                "student": name,
                "metrics": one.metrics,
                "agreement": one.agreement,
                "speedup": whole / time,
                "megabytes": one.megabytes,
                "parameters": one.parameters.total,
                "record": read_details(folder),
            }
        )
    taught = evaluate(teacher, data).models[0]
    return {
        "task": task,
        "metric": next(iter(taught.metrics)),
        "teacher": {"metrics": taught.metrics, "megabytes": taught.megabytes, "parameters": taught.parameters.total},
        "steps": STEPS[task],
        "students": rows,
        "software": describe_software(),
        "hardware": describe_hardware(),
    }


def is_finished(folder: Path) -> bool:
    path = folder / "tkd_run.json"
    return path.exists() and json.loads(path.read_text(encoding="utf-8"))["finished"] is not None


def read_details(folder: Path) -> dict:
    """What the run's record says of what was removed, and how long it took."""
    record = json.loads((folder / "tkd_run.json").read_text(encoding="utf-8"))
    return {name: record[name] for name in ("details", "seconds", "finished")}


def write(folder: Path) -> None:
    """The tables and the figure of all records that are there."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / "pruning").glob("*.json"))]
    tasks = {task: found for task in STEPS if (found := [one for one in records if one["task"] == task])}
    content = {
        "command": "python examples/pruning.py --teachers TEACHERS --data-dir DATA",
        "tasks": {task: list(summaries(found)) for task, found in tasks.items()},
    }
    write_json(folder / "pruning.json", content)
    (folder / "pruning.md").write_text(markdown(content["command"], tasks), encoding="utf-8")
    draw(folder / "pruning.png", tasks)


def summaries(records: list[dict]) -> Iterator[dict]:
    """The teacher and each student over the seeds: mean and standard deviation of the metric, and means of the rest."""
    metric, teachers = records[0]["metric"], [record["teacher"] for record in records]
    taught = [teacher["metrics"][metric] for teacher in teachers]
    costs = {name: teachers[0][name] for name in ("megabytes", "parameters")}
    yield {
        "name": "teacher",
        "metric": spread_of_teachers(taught),
        "of_teacher": 1.0,
        "agreement": 1.0,
        "speedup": 1.0,
        **costs,
    }
    for student in STUDENTS:
        found = [(row, whole) for record, whole in zip(records, taught, strict=True) for row in record["students"]]
        found = [(row, whole) for row, whole in found if row["student"] == student.name]
        if found:
            yield {
                "name": student.name,
                "metric": spread([row["metrics"][metric] for row, _ in found]),
                "of_teacher": mean(row["metrics"][metric] / whole for row, whole in found),
                **{
                    name: mean(row[name] for row, _ in found)
                    for name in ("agreement", "speedup", "megabytes", "parameters")
                },
            }


def markdown(command: str, tasks: dict[str, list[dict]]) -> str:
    parts = ["# Pruning against leaving layers out", "", f"`{command}`", ""]
    for name, records in tasks.items():
        parts += [
            f"## {name}: {records[0]['steps']} steps of 64",
            "",
            f"| student | {records[0]['metric']} | of the teacher | agreement | speed | MB | parameters | seeds |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            *(
                f"| {s['name']} | {written(s['metric'], '.4f')} | {s['of_teacher']:.1%} "
                f"| {s['agreement']:.4f} | {s['speedup']:.2f}× | {s['megabytes']:.1f} | {s['parameters'] / 1e6:.1f} M "
                f"| {len(s['metric']['values'])} |"
                for s in summaries(records)
            ),
            "",
        ]
    machines = {
        f"{hardware['threads']} thread(s) of {hardware['cpu']}, torch {software['torch']}, transformers "
        f"{software['transformers']}"
        for records in tasks.values()
        for hardware, software in ((one["hardware"], one["software"]) for one in records)
    }
    return "\n".join(
        [
            *parts,
            "![the same as a figure](pruning.png)",
            "",
            "Mean ± standard deviation over seeds; one seed alone has no spread. Speed is that of a forward pass over "
            f"one of {TEXTS} validation texts at a time, teacher and students of a seed in turns in one run, medians, "
            f"in float32 on {'; '.join(sorted(machines))}.",
            "",
        ]
    )


def draw(path: Path, tasks: dict[str, list[dict]]) -> None:
    """The metric against speed, and against megabytes, a row of panels a task."""
    figure, axes = plt.subplots(len(tasks), 2, figsize=(10, 4.2 * len(tasks)), squeeze=False)
    for row, (name, records) in zip(axes, tasks.items(), strict=True):
        whole, *found = summaries(records)
        taught = whole["metric"]["mean"]
        for axis, cost, label in zip(
            row, ("speedup", "megabytes"), ("times as fast as the teacher", "MB"), strict=True
        ):
            axis.axhline(taught, color=GREY, linewidth=1)
            axis.axhline(0.99 * taught, color=GREY, linewidth=1, linestyle=":")
            panel(axis, found, lambda one, cost=cost: one[cost])
            axis.set(title=name, xlabel=label, ylabel=records[0]["metric"])
            axis.grid(color="#dddddd", linewidth=0.6)
    legend = "grey: the teacher, dotted: 99 % of it; bars: ± standard deviation over seeds"
    save(figure, path, "Pruning against leaving layers out", legend, shared_legend=True)


def panel(axis, found: list[dict], cost: Callable[[dict], float]) -> None:
    for curve, (part, marker, line, color) in BY_SPEED.items():
        points = sorted((one for one in found if part in one["name"]), key=cost)
        if not points:
            continue
        x, y = [cost(one) for one in points], [one["metric"]["mean"] for one in points]
        spreads = [one["metric"]["sd"] or 0.0 for one in points]
        axis.errorbar(x, y, yerr=spreads, marker=marker, linestyle=line, color=color, capsize=3, label=curve)
    for one in found:
        if one["name"] in BY_SIZE:
            look = {"fmt": BY_SIZE[one["name"]], "color": GREY, "capsize": 3, "label": one["name"]}
            axis.errorbar(cost(one), one["metric"]["mean"], yerr=one["metric"]["sd"] or 0.0, **look)


if __name__ == "__main__":
    main()
