"""Experiments 3 and 6: what training and inference cost, in time and memory, by precision and batch size."""

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import figures
import measure
from measure import Measurement
from recipes import recipes
from report import NONE, distinct, line, measured_on, table, write
from study import Study, read_record, write_record
from tkd_hf.cli.output import announce
from tkd_hf.hardware import describe_hardware, describe_software, has_fast_bf16


SETTING = "timing"


@dataclass(frozen=True)
class Case:
    """One measurement and the record it makes; `rounds` processes, of which the median counts."""

    name: str
    measurement: Measurement
    rounds: int = 1


def model_name(layers: int) -> str:
    return f"{layers} layers" if layers else "teacher"


class Costs:
    """The measurements of a study. They are worth something on a machine that does nothing else."""

    def __init__(self, study: Study):
        self.study, self.size = study, study.size
        self.precisions = measure.precisions()

    def precision_cases(self) -> list[Case]:
        """Training and inference of the largest student in each precision."""
        layers, batch_size = self.size.students[0], self.size.batch_sizes[-1]
        training = [self._train(layers, precision, batch_size) for precision in self.precisions]
        return [*training, *(self._memory(layers, precision) for precision in self.precisions), self._inference()]

    def resource_cases(self) -> list[Case]:
        """Training over batch sizes, memory and time of inference, of the teacher and the students."""
        models = (0, *self.size.students)
        training = [self._train(layers, "fp32", size) for size in self.size.batch_sizes[1:] for layers in models]
        memory = [self._memory(layers, precision) for layers in models for precision in self.precisions]
        return [*training, *memory, self._inference()]

    def fill(self, cases: list[Case], command: str) -> None:
        """Measures what has no record; cases of several rounds take turns."""
        missing = [case for case in cases if self.record(case) is None]
        results = {case.name: [] for case in missing}
        for turn in range(max((case.rounds for case in missing), default=0)):
            for case in missing:
                if turn < case.rounds:
                    announce(f"measuring {case.name}, {turn + 1} of {case.rounds}")
                    results[case.name].append(measure.in_own_process(case.measurement))
        for case in missing:
            content = {
                "settings": self._settings(case),
                "size": self.size.name,
                "command": command,
                "rounds": results[case.name],
                "software": describe_software(),
                "hardware": describe_hardware(),
            }
            write_record(self._path(case), content)

    def record(self, case: Case) -> dict | None:
        """The record, if it was made with the settings of today."""
        found = read_record(self._path(case))
        return found if found and found["settings"] == self._settings(case) else None

    def value(self, case: Case, key: str) -> float | None:
        """The median over rounds of one thing measured."""
        found = self.record(case)
        return median(result[key] for result in found["rounds"]) if found else None

    def latencies(self) -> dict[tuple[int, str, int], float]:
        """Milliseconds by layers (0 for the teacher), precision and batch size."""
        found = self.record(self._inference())
        cases = found["rounds"][0]["cases"] if found else []
        return {(c["layers"], c["precision"], c["batch_size"]): c["milliseconds"] for c in cases}

    def _path(self, case: Case) -> Path:
        return self.study.results / "records" / "measurements" / f"{case.name}.json"

    def _settings(self, case: Case) -> dict:
        m = case.measurement
        return {
            "what": m.what,
            "task": m.task,
            "layers": list(m.layers),
            "precisions": list(m.precisions),
            "batch_sizes": list(m.batch_sizes),
            "steps": m.steps,
            "stage": m.stage,
        }

    def _train(self, layers: int, precision: str, batch_size: int) -> Case:
        stage = recipes(layers)["ours"].stages[0] if layers else {}
        base = self._measurement("train", (layers,), (precision,), (batch_size,))
        emulated = precision == "bf16" and not has_fast_bf16()  # minutes a step: a few of them have to do
        m = replace(base, stage=stage, steps=2 if emulated else self.size.settings[SETTING].steps)
        rounds = 1 if emulated else self.size.rounds
        return Case(f"train-{_slug(layers)}-{precision}-b{batch_size}", m, rounds)

    def _memory(self, layers: int, precision: str) -> Case:
        m = self._measurement("memory", (layers,), (precision,), self.size.batch_sizes[-1:])
        return Case(f"memory-{_slug(layers)}-{precision}", m)

    def _inference(self) -> Case:
        return Case(
            "inference",
            self._measurement("inference", (0, *self.size.students), self.precisions, self.size.batch_sizes),
        )

    def _measurement(self, what: str, layers: tuple, precisions: tuple, batch_sizes: tuple) -> Measurement:
        task = self.size.settings[SETTING].task
        return Measurement(what, "", task, "", layers, precisions, batch_sizes, stage={}, steps=0)

    def prepared(self, cases: list[Case]) -> list[Case]:
        """The cases with the teacher and the data that they run on."""
        places = {"teacher": self.study.teacher(SETTING, seed=0), "data_dir": self.study.data(SETTING).data_dir}
        return [replace(case, measurement=replace(case.measurement, **places)) for case in cases]


def precision(costs: Costs, command: str) -> Path:
    """Writes the table of experiment 3."""
    layers, sizes = costs.size.students[0], costs.size.batch_sizes
    times, rows = costs.latencies(), []
    for name in costs.precisions:
        train, memory = costs._train(layers, name, sizes[-1]), costs._memory(layers, name)
        rows.append(
            {
                "precision": name,
                "train_seconds_per_step": costs.value(train, "seconds_per_step"),
                "train_peak_megabytes": costs.value(train, "peak_megabytes"),
                "inference_milliseconds": {size: times.get((layers, name, size)) for size in sizes},
                "inference_peak_megabytes": costs.value(memory, "peak_megabytes"),
                "weights_megabytes": costs.value(memory, "weights_megabytes"),
            }
        )
    content = describe(costs, "Precision", command, rows, costs.precision_cases())
    native = all(machine["bf16"] for machine in content["hardware"])
    head = ["precision", f"training, s a step of {sizes[-1]}", "training, peak MB"]
    head += [f"inference, ms at batch {size}" for size in sizes] + ["inference, peak MB", "weights, MB"]
    body = [
        line(
            row["precision"],
            [shown(row["train_seconds_per_step"]), shown(row["train_peak_megabytes"])]
            + [shown(row["inference_milliseconds"][size]) for size in sizes]
            + [shown(row["inference_peak_megabytes"])],
            shown(row["weights_megabytes"]),
        )
        for row in rows
    ]
    remarks = [
        f"The student of {layers} layers: training by our recipe with the live teacher, inference with its weights "
        "converted.",
        ""
        if native
        else "This machine does not compute in bf16: it is emulated, and the figures (of two "
        "steps) say what that costs. tkd-hf trains in bf16 by default only where the device has it.",
        "" if "fp16" in costs.precisions else "fp16 needs an accelerator, which this machine has not.",
    ]
    panels = {
        head[1]: {r["precision"]: r["train_seconds_per_step"] or 0 for r in rows},
        head[2]: {r["precision"]: r["train_peak_megabytes"] or 0 for r in rows},
        head[2 + len(sizes)]: {r["precision"]: r["inference_milliseconds"][sizes[-1]] or 0 for r in rows},
    }
    text = document(content, table(head, body), remarks, "precision.png")
    return write(
        costs.study.results, "precision", content, text, lambda path: figures.bars(path, content["title"], panels)
    )


def resources(costs: Costs, command: str) -> Path:
    """Writes the table of experiment 6."""
    sizes, times, rows = costs.size.batch_sizes, costs.latencies(), []
    for layers in (0, *costs.size.students):
        trains = {size: costs._train(layers, "fp32", size) for size in sizes[1:]}
        memories = {name: costs._memory(layers, name) for name in costs.precisions}
        rows.append(
            {
                "model": model_name(layers),
                "parameters": costs.value(memories["fp32"], "parameters"),
                "train_seconds_per_step": {
                    size: costs.value(case, "seconds_per_step") for size, case in trains.items()
                },
                "train_peak_megabytes": {size: costs.value(case, "peak_megabytes") for size, case in trains.items()},
                "inference_peak_megabytes": {name: costs.value(c, "peak_megabytes") for name, c in memories.items()},
                "inference_milliseconds": {
                    name: {size: times.get((layers, name, size)) for size in sizes} for name in costs.precisions
                },
            }
        )
    content = describe(costs, "Resources", command, rows, costs.resource_cases())
    head = ["model", "parameters"]
    head += [f"training, s a step of {size}" for size in sizes[1:]] + [f"training, peak MB at {sizes[-1]}"]
    head += [f"inference {name}, peak MB" for name in costs.precisions]
    head += [f"{name}, ms at batch {size}" for name in costs.precisions for size in sizes]
    body = []
    for row in rows:
        cells = [f"{row['parameters'] / 1e6:.1f} M" if row["parameters"] else NONE]
        cells += [shown(row["train_seconds_per_step"][size]) for size in sizes[1:]]
        cells += [shown(row["train_peak_megabytes"][sizes[-1]])]
        cells += [shown(value) for value in row["inference_peak_megabytes"].values()]
        cells += [shown(value) for by_size in row["inference_milliseconds"].values() for value in by_size.values()]
        body.append(line(row["model"], cells[:-1], cells[-1]))
    remarks = [
        "Training: of the teacher fine-tuning, of the students our recipe with the live teacher, fp32, the first step "
        f"included; median of {costs.size.rounds} processes in turn.",
    ]
    panels = {
        f"inference, {name}": {
            "x": "batch size",
            "y": "ms (median)",
            "curves": {
                row["model"]: (list(sizes), list(row["inference_milliseconds"][name].values()))
                for row in rows
                if None not in row["inference_milliseconds"][name].values()
            },
        }
        for name in costs.precisions
    }
    text = document(content, table(head, body), remarks, "resources.png")
    return write(
        costs.study.results, "resources", content, text, lambda path: figures.lines(path, content["title"], panels)
    )


def describe(costs: Costs, title: str, command: str, rows: list[dict], cases: list[Case]) -> dict:
    """What stands in the JSON beside the rows."""
    records = [record for case in cases if (record := costs.record(case))]
    return {
        "title": title,
        "command": command,
        "size": costs.size.name,
        "task": costs.size.settings[SETTING].task,
        "rows": rows,
        "missing": [case.name for case in cases if costs.record(case) is None],
        "software": distinct(record["software"] for record in records),
        "hardware": distinct(record["hardware"] for record in records),
    }


def document(content: dict, rows: list[str], remarks: list[str], picture: str) -> str:
    remarks = [
        *remarks,
        f"Sentences of {content['task']}, padded. Peak memory is that of a process of its own, the libraries it loads "
        "included. Times are medians; models, precisions and batch sizes took turns in one process.",
        f"**Missing**: {', '.join(content['missing'])}." if content["missing"] else "",
        *measured_on(content),
    ]
    parts = [f"# {content['title']}", f"`{content['command']}`", "\n".join(rows), f"![the same as a figure]({picture})"]
    return "\n\n".join([*parts, *filter(None, remarks)]) + "\n"


def shown(value: float | None) -> str:
    return NONE if value is None else figures.short(value)


def _slug(layers: int) -> str:
    return f"{layers}l" if layers else "teacher"
