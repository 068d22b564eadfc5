"""From records to a table, as Markdown and JSON: means, spreads, and how finely so many examples resolve."""

import json
from math import sqrt
from pathlib import Path
from statistics import mean

import figures
from experiments import Experiment
from recipes import recipes
from seeds import spread, written
from study import Study
from tkd_hf import InputError
from tkd_hf.data.tasks import get_task


NONE = "–"
SHORT = {"matthews_correlation": "Matthews", "accuracy": "accuracy", "pearson": "Pearson", "spearman": "Spearman"}
COUNTED = {
    "accuracy": lambda value, n: sqrt(value * (1 - value) / n),
    "f1": lambda value, n: sqrt(value * (1 - value) / n),
    "matthews_correlation": lambda value, n: sqrt((1 - value**2) / n),
    "pearson": lambda value, n: (1 - value**2) / sqrt(n),
    "spearman": lambda value, n: (1 - value**2) / sqrt(n),
}


def report(study: Study, name: str, experiment: Experiment, command: str) -> Path:
    """Writes `<name>.json`, `.md` and `.png` from the records that are there."""
    records = {run: record for run in experiment.runs() if (record := study.record(run))}
    rows = [row(recipe, layers, experiment, records) for layers in experiment.students for recipe in experiment.recipes]
    content = {
        "name": name,
        "title": experiment.title,
        "about": experiment.about,
        "command": command,
        "size": study.size.name,
        "tasks": {setting: task_summary(study, setting, records) for setting in experiment.settings},
        "rows": [made for made in rows if made["tasks"]] or rows,
        "records": [len(records), len(experiment.runs())],
        "missing": [run.name for run in experiment.runs() if run not in records],
        "resumed": [run.name for run, record in records.items() if record["resumed"]],
        "hours": round(sum(record["seconds"] or 0 for record in records.values()) / 3600, 2),
        "software": distinct(record["software"] for record in records.values()),
        "hardware": distinct(record["hardware"] for record in records.values()),
    }
    return write(study.results, name, content, markdown(content), lambda path: figures.dots(path, content))


def task_summary(study: Study, setting: str, records: dict) -> dict:
    """A column's head: the metrics, the teacher's values, and the standard error of each on so many examples."""
    found = [record for run, record in records.items() if run.setting == setting]
    chosen = study.size.settings[setting]
    summary = {"metrics": list(get_task(chosen.task).metrics), "steps": chosen.steps, "train_examples": chosen.examples}
    if not found:
        return summary
    taught, examples = teachers(setting, records), found[0]["examples"]
    values = {metric: spread([teacher["metrics"][metric] for teacher in taught]) for metric in summary["metrics"]}
    return summary | {
        "split": found[0]["split"],
        "examples": examples,
        "teacher": values,
        "resolution": {metric: COUNTED[metric](value["mean"], examples) for metric, value in values.items()},
    }


def teachers(setting: str, records: dict) -> list[dict]:
    """The teacher of each seed: all recipes of a seed have learned from one."""
    by_seed = {}
    for run, record in records.items():
        if run.setting != setting:
            continue
        known = by_seed.setdefault(run.seed, record["teacher"])
        if known != record["teacher"]:
            raise InputError(
                f"{run.name} is of the teacher {record['teacher']['revision']} and other runs of its seed are of "
                f"{known['revision']}; run the experiment again with one of them in --teachers"
            )
    return list(by_seed.values())


def row(recipe: str, layers: int, experiment: Experiment, records: dict) -> dict:
    """One recipe at one size: of each task the mean and standard deviation over seeds, and of the teacher's on all."""
    found = {
        setting: {run.seed: records[run] for run in records if (run.recipe, run.layers, run.setting) == key}
        for setting in experiment.settings
        for key in [(recipe, layers, setting)]
    }
    whole = [seed for seed in experiment.seeds if all(seed in by_seed for by_seed in found.values())]
    shares = [mean(kept(by_seed[seed]) for by_seed in found.values()) for seed in whole]
    return {
        "recipe": recipe,
        "about": recipes(layers)[recipe].about,
        "layers": layers,
        "tasks": {setting: cell(list(by_seed.values())) for setting, by_seed in found.items() if by_seed},
        "of_teacher": spread(shares) if shares else None,
    }


def cell(records: list[dict]) -> dict:
    agreements = [record["agreement"] for record in records if record["agreement"] is not None]
    return {
        "metrics": {name: spread([record["metrics"][name] for record in records]) for name in records[0]["metrics"]},
        "of_teacher": spread([kept(record) for record in records]),
        "agreement": mean(agreements) if agreements else None,
    }


def kept(record: dict) -> float:
    """The share of the teacher's metric that the student has, of the metric that the task is judged by."""
    (name, value), *_ = record["metrics"].items()
    taught = record["teacher"]["metrics"][name]
    return value / taught if taught else 0.0


def distinct(found) -> list:
    """Without repetitions, in order."""
    unique = []
    for one in found:
        if one not in unique:
            unique.append(one)
    return unique


def write(folder: Path, name: str, content: dict, text: str, draw) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    draw(folder / f"{name}.png")
    return folder / f"{name}.md"


# --- Markdown


def markdown(content: dict) -> str:
    tasks, several = content["tasks"], len({row["layers"] for row in content["rows"]}) > 1
    columns = [(setting, metric) for setting, task in tasks.items() for metric in task["metrics"]]
    head = ["student", *(f"{setting} {SHORT.get(metric, metric)}" for setting, metric in columns), "of the teacher"]
    lines = [
        line(
            "teacher",
            [with_spread(tasks[setting].get("teacher", {}).get(metric)) for setting, metric in columns],
            "100 %",
        )
    ]
    for row in content["rows"]:
        cells = [row["tasks"].get(setting, {"metrics": {}})["metrics"].get(metric) for setting, metric in columns]
        name = f"{row['layers']} layers, {row['about']}" if several else row["about"]
        lines.append(line(name, [with_spread(cell) for cell in cells], percent(row["of_teacher"])))
    errors = [tasks[setting].get("resolution", {}).get(metric) for setting, metric in columns]
    lines.append(line("one standard error", [figure(error) for error in errors], ""))
    return "\n".join(
        [
            f"# {content['title']}",
            "",
            f"`{content['command']}`",
            "",
            content["about"],
            "",
            *table(head, lines),
            "",
            f"![the same as a figure]({content['name']}.png)",
            "",
            *notes(content),
            "",
        ]
    )


def table(head: list[str], lines: list[str]) -> list[str]:
    return [f"| {' | '.join(head)} |", f"|{' --- |' + ' ---: |' * (len(head) - 1)}", *lines]


def line(name: str, cells: list[str], last: str) -> str:
    return f"| {' | '.join([name, *cells, last])} |"


def notes(content: dict) -> list[str]:
    made, wanted = content["records"]
    seeds = sorted({len(c["of_teacher"]["values"]) for row in content["rows"] for c in row["tasks"].values()})
    layers = " and ".join(str(n) for n in dict.fromkeys(row["layers"] for row in content["rows"]))
    steps = ", ".join(f"{setting} {task['steps']}" for setting, task in content["tasks"].items())
    parts = "".join(
        f" Of {setting}, {task['train_examples']:,} training examples chosen at random, the same for all."
        for setting, task in content["tasks"].items()
        if task["train_examples"]
    )
    sizes = ", ".join(
        f"{setting} {task['examples']:,} ({task['split']})"
        for setting, task in content["tasks"].items()
        if "examples" in task
    )
    found = [
        f"Students of {layers} layers. Mean ± standard deviation over seeds ({' or '.join(map(str, seeds)) or 0} a "
        f"cell; a single one has no spread). Measured on: {sizes or 'nothing yet'}.",
        "Each seed has a teacher of its own, from which all its students learn. “Of the teacher” is the mean over "
        "tasks of student ÷ teacher, by each task's first metric, over the seeds that have all tasks.",
        "One standard error is how far the teacher's value would move by chance on another sample of so many examples "
        "(of correlations, an approximation); differences well below it say nothing.",
        f"Optimisation steps, the same for every recipe: {steps}.{parts}",
    ]
    if made < wanted:
        missing = ", ".join(content["missing"][:12]) + (" …" if len(content["missing"]) > 12 else "")
        found.append(f"**{wanted - made} of {wanted} runs are missing** (rows without any are left out): {missing}.")
    found += measured_on(content)
    return [part for text in found for part in (text, "")][:-1]


def measured_on(content: dict) -> list[str]:
    """A line for each machine."""
    return [f"Measured on {m['cpu']}, {m['threads']} threads of {m['cores']} cores." for m in content["hardware"]]


def figure(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"


def with_spread(values: dict | None) -> str:
    return "missing" if values is None else written(values, ".4f")


def percent(values: dict | None) -> str:
    return "missing" if values is None else written(values, ".2%")
