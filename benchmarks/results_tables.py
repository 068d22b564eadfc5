"""The tables of the results page, one function per table, each made from benchmarks/results.json."""

from collections import defaultdict
from math import sqrt
from statistics import mean

from common import RESULTS, mean_and_deviation, read_results, with_deviation
from family import FIRST_SEED, SIZES, TWELVE_LAYERS
from paper import ABLATED, COMPARED, TASKS, softness
from tkd_hf.cards.markdown import markdown_table


TITLES = {"sst2": "SST-2", "mrpc": "MRPC", "stsb": "STS-B", "cola": "CoLA", "rte": "RTE", "banking77": "Banking77"}
TITLES |= {"clinc150": "CLINC150", "reviews": "movie reviews"}
GLUE = ("sst2", "mrpc", "stsb", "cola", "rte")
SHOWN_SIZES = ("3 layers", "3 layers, int8", "3 narrow layers, int8", "2 layers, int8")
INT8, FLOAT = "ONNX Runtime, int8", "PyTorch, float32"
# how far a metric of value m on n examples moves by chance; an approximation for correlations
STANDARD_ERRORS = {
    "accuracy": lambda m, n: sqrt(m * (1 - m) / n),
    "matthews_correlation": lambda m, n: sqrt((1 - m**2) / n),
    "pearson": lambda m, n: (1 - m**2) / sqrt(n),
}


def rows_of(section: str) -> list[dict]:
    return read_results(RESULTS)[section]


def as_table(head: list[str], rows: list[list[str]], text_columns: int = 1) -> list[str]:
    """Return the lines of a Markdown table whose first columns are text and whose other columns are numbers."""
    return markdown_table(head, rows, text_columns).splitlines()


def percent(shares: list[float]) -> str:
    return with_deviation([100 * share for share in shares], ".1f")


def measured_on(rows: list[dict]) -> list[str]:
    """Return a line that names the machines and versions of the rows."""
    machines = dict.fromkeys(row["machine"] for row in rows)
    return ["", f"Measured on {' and '.join(machines)}; {versions(rows)}."]


def versions(rows: list[dict]) -> str:
    """Return the versions of torch and transformers that the rows were measured with."""
    software = [row["software"] for row in rows]
    return " and ".join(
        dict.fromkeys(f"torch {names['torch']}, transformers {names['transformers']}" for names in software)
    )


# --- the family


def tasks() -> dict[str, list[dict]]:
    """Return the runs of each task, the first seed first; the task whose int8 student keeps least comes first."""
    runs = defaultdict(list)
    for row in sorted(rows_of("family"), key=lambda row: row["seed"] != FIRST_SEED):
        if "12l" not in row["recipe"]:
            runs[row["recipe"].removeprefix("tkd-nlp-")].append(row)
    return dict(sorted(runs.items(), key=lambda item: mean(shares(item[1], "3 layers, int8"))))


def shares(runs: list[dict], size: str, key: str = "share") -> list[float]:
    """Return one number per seed: the share of the teacher's metric that a student keeps, or another of its values."""
    students = [(run["teacher"]["value"], run["students"][size]) for run in runs if size in run["students"]]
    return [student["value"] / teacher if key == "share" else student[key] for teacher, student in students]


def smaller(run: dict, size: str) -> float:
    return run["teacher"]["megabytes"] / run["students"][size]["megabytes"]


def family() -> list[str]:
    head = ["", "runs in", "metric", "of the teacher, %", "agreement", "ms", "faster", "MB", "smaller", "seeds"]
    rows = []
    for name, runs in tasks().items():
        first = runs[0]
        title = (
            f"**{TITLES[name]}**, {first['examples']:,} of {first['split']}, {first['minutes']:.0f} minutes: teacher"
        )
        costs = [f"{first['teacher']['milliseconds']:.1f}", "", f"{first['teacher']['megabytes']:.1f}", "", ""]
        rows.append([title, FLOAT, with_deviation([first["teacher"]["value"]]), "", "", *costs])
        rows += [student_row(runs, size) for size in SHOWN_SIZES]
    rows += [mean_row(size) for size in SIZES.values()]
    rows.append(mean_row("3 layers", GLUE, "mean of the GLUE tasks"))
    deep = [row for row in rows_of("family") if "12l" in row["recipe"]]
    for size in TWELVE_LAYERS.values():
        rows.append([f"SST-2, {size}", *student_row(deep, size)[1:]])
    return [*as_table(head, rows, text_columns=2), "", f"{machines_of_tasks()}; {versions(rows_of('family'))}."]


def machines_of_tasks() -> str:
    """Return a line that names the machine on which most tasks were timed, and the tasks that were timed elsewhere."""
    machines = defaultdict(list)
    for name, runs in tasks().items():
        machines[runs[0]["machine"]].append(TITLES[name])
    (main_machine, _), *further = sorted(machines.items(), key=lambda item: -len(item[1]))
    return "".join([f"Timed on {main_machine}", *(f"; {', '.join(names)} on {machine}" for machine, names in further)])


def student_row(runs: list[dict], size: str) -> list[str]:
    """Return the row of a student; its latency and size are those of the first seed."""
    student = runs[0]["students"][size]
    return [
        size,
        INT8 if "int8" in size else FLOAT,
        with_deviation(shares(runs, size, "value")),
        percent(shares(runs, size)),
        with_deviation(shares(runs, size, "agreement"), ".3f"),
        f"{student['milliseconds']:.1f}",
        f"{student['speedup']:.1f}×",
        f"{student['megabytes']:.1f}",
        f"{smaller(runs[0], size):.1f}×",
        str(len(shares(runs, size))),
    ]


def mean_row(size: str, names: tuple[str, ...] = tuple(TITLES), about: str = "mean of the tasks") -> list[str]:
    """Return the mean of a size over tasks, with its standard error if every task has several seeds."""
    values = means(size, names)
    error = f" ± {100 * values['standard_error']:.1f}" if values["standard_error"] is not None else ""
    share_cell, agreement = f"**{100 * values['share']:.1f}{error}**", f"{values['agreement']:.3f}"
    faster, times_smaller = f"{values['faster']:.1f}×", f"{values['smaller']:.1f}×"
    runs_in = INT8 if "int8" in size else FLOAT
    return [f"**{about}**, {size}", runs_in, "", share_cell, agreement, "", faster, "", times_smaller, ""]


def means(size: str, names: tuple[str, ...] = tuple(TITLES)) -> dict[str, float | None]:
    """Return means over tasks; a student that is better than its teacher counts as equal to it.

    The standard error of the mean share follows from the deviations over seeds; it is `None` if a task has one seed.
    """
    runs = {name: runs for name, runs in tasks().items() if name in names}
    spreads = [(*mean_and_deviation(shares(of_task, size)), len(shares(of_task, size))) for of_task in runs.values()]
    variances = [None if deviation is None else deviation**2 / count for _, deviation, count in spreads]
    return {
        "share": mean(min(center, 1.0) for center, _, _ in spreads),
        "standard_error": None if None in variances else sqrt(sum(variances)) / len(variances),
        "agreement": mean(mean(shares(of_task, size, "agreement")) for of_task in runs.values()),
        "faster": mean(of_task[0]["students"][size]["speedup"] for of_task in runs.values()),
        "smaller": mean(smaller(of_task[0], size) for of_task in runs.values()),
    }


# --- other models


# model of the quickstart -> runtime and precision
QUICKSTART_MODELS = {
    "teacher": "PyTorch, float32",
    "3 layers": "PyTorch, float32",
    "3 layers, int8": "ONNX Runtime, int8",
}


def quickstart() -> list[str]:
    """Return a row per model of the quickstart; the share of the teacher is the mean over the seeds."""
    models = defaultdict(list)
    for row in rows_of("quickstart"):
        models[row["model"]].append(row)
    rows = []
    for name, runs in models.items():
        teachers = models["teacher"]
        share_cell = percent([run["accuracy"] / own["accuracy"] for run, own in zip(runs, teachers, strict=True)])
        ratios = [own["milliseconds"] / run["milliseconds"] for run, own in zip(runs, teachers, strict=True)]
        rows.append(
            [
                *(name, QUICKSTART_MODELS[name], with_deviation([run["accuracy"] for run in runs])),
                "" if name == "teacher" else share_cell,
                "" if name == "teacher" else with_deviation([run["agreement"] for run in runs], ".3f"),
                f"{mean(run['milliseconds'] for run in runs):.1f}",
                "" if name == "teacher" else f"{mean(ratios):.1f}×",
                f"{runs[0]['megabytes']:.1f}",
            ]
        )
    head = ["", "runs in", "accuracy", "of the teacher, %", "agreement", "ms", "faster", "MB"]
    return as_table(head, rows, text_columns=2) + measured_on(rows_of("quickstart"))


def out_of_domain() -> list[str]:
    domains = defaultdict(dict)
    for row in rows_of("out_of_domain"):
        domains[row["domain"]][row["model"]] = row
    rows = []
    for domain, models in sorted(domains.items(), key=lambda item: item[1]["3 layers"]["change"]):
        teacher = models["teacher"]
        cells = []
        for size in SHOWN_SIZES:
            row = models[size]
            low, high = (100 * bound for bound in row["interval"])
            cells.append(f"{100 * row['accuracy'] / teacher['accuracy']:.1f} ({low:+.1f} to {high:+.1f})")
        rows.append([f"{domain}, {teacher['examples']:,} texts", f"{teacher['accuracy']:.4f}", *cells])
    head = ["", "teacher, accuracy", *(f"{size}, %" for size in SHOWN_SIZES)]
    return as_table(head, rows) + measured_on(rows_of("out_of_domain"))


def pruning() -> list[str]:
    students = defaultdict(lambda: defaultdict(list))
    for row in rows_of("pruning"):
        students[row["student"]][row["task"]].append(row)
    rows = []
    for name, by_task in sorted(students.items(), key=lambda item: mean(r["value"] for r in item[1]["mrpc"])):
        cells = []
        for runs in (by_task["sst2"], by_task["mrpc"]):
            share_cell = percent([run["value"] / run["teacher"] for run in runs])
            cells += [
                with_deviation([run["value"] for run in runs]),
                share_cell,
                f"{mean(run['speedup'] for run in runs):.2f}×",
            ]
        sizes = [mean(run["megabytes"] for run in runs) for runs in by_task.values()]
        seeds = {len(runs) for runs in by_task.values()}
        rows.append([name, *cells, f"{mean(sizes):.1f}", ", ".join(map(str, seeds))])
    by_task = {row["task"]: row for row in rows_of("pruning")}
    first = {task: by_task[task] for task in ("sst2", "mrpc")}
    teacher = [cell for row in first.values() for cell in (f"{row['teacher']:.4f}", "100.0", "1.00×")]
    rows.append(["teacher", *teacher, f"{first['sst2']['teacher_megabytes']:.1f}", "1"])
    columns = [
        cell
        for task, row in first.items()
        for cell in (f"{TITLES[task]}, {row['steps']:,} steps", "of the teacher, %", "speed")
    ]
    return as_table(["", *columns, "MB", "seeds"], rows) + measured_on(rows_of("pruning"))


def quantization() -> list[str]:
    by_format = defaultdict(dict)
    for row in rows_of("quantization"):
        shown = row["backend"] == "pytorch" or row["weights"] not in ("float32", "fp4")
        if "vocabulary" not in row["model"] and shown:
            by_format[row["model"], row["backend"], row["weights"]][row["task"]] = row
    rows = []
    order = sorted(by_format.items(), key=lambda item: (item[0][0] != "teacher", item[1]["stsb"]["value"]))
    for (model, backend, weights), by_task in order:
        cells = []
        for row in by_task.values():
            agreement = "" if row["agreement"] is None else f"{row['agreement']:.3f}"
            cells += [f"{row['value']:.4f}", agreement]
        timings = [f"{t['milliseconds']:.1f} ({t['speedup']:.1f}×)" for t in by_task["sst2"]["timings"]]
        rows.append([model, f"{backend} {weights}", *cells, f"{by_task['sst2']['megabytes']:.1f}", *timings])
    head = ["", "format", "SST-2", "agreement", "STS-B", "correlation", "MB", "ms, 1 × 32", "ms, 32 × 128"]
    return as_table(head, rows, text_columns=2) + measured_on(rows_of("quantization"))


# --- the paper's experiments


def paper_runs() -> dict[tuple[str, int, str], list[dict]]:
    """Return the runs by recipe, layers and task; all runs of a task and seed must have the same teacher."""
    runs, teachers = defaultdict(list), {}
    for row in rows_of("paper"):
        revision = teachers.setdefault((row["task"], row["seed"]), row["teacher_revision"])
        if revision != row["teacher_revision"]:
            raise SystemExit(
                f"{row['task']}, seed {row['seed']}: runs of two teachers, {revision} and {row['teacher_revision']}"
            )
        runs[row["recipe"], row["layers"], row["task"]].append(row)
    return runs


def main_metric(row: dict) -> tuple[str, float, float]:
    """Return the task's first metric: its name, the student's value and the teacher's."""
    name = next(iter(row["metrics"]))
    return name, row["metrics"][name], row["teacher"][name]


def share(row: dict) -> float:
    _, value, teacher = main_metric(row)
    return value / teacher


def standard_error(row: dict) -> float:
    """Return how far the teacher's metric would move by chance on another sample of as many examples."""
    name, _, teacher = main_metric(row)
    return STANDARD_ERRORS[name](teacher, row["examples"])


def recipes_compared() -> list[str]:
    runs, rows = paper_runs(), []
    for layers in (2, 3):
        for recipe in COMPARED:
            by_task = [runs[recipe, layers, task] for task in TASKS]
            of_seeds = [mean(share(row) for row in rows_of_seed) for rows_of_seed in zip(*by_task, strict=True)]
            cells = [percent([share(row) for row in of_task]) for of_task in by_task]
            rows.append([f"{layers} layers, {recipe}", *cells, percent(of_seeds)])
    by_task = [runs["ours", 3, task] for task in TASKS]
    rows.append(
        ["teacher's metric", *(with_deviation([main_metric(row)[2] for row in of_task]) for of_task in by_task), ""]
    )
    errors = [standard_error(of_task[0]) / main_metric(of_task[0])[2] for of_task in by_task]
    rows.append(["one standard error, % of the teacher", *(f"{100 * error:.1f}" for error in errors), ""])
    used = [row for row in rows_of("paper") if row["recipe"] in COMPARED]
    return as_table(["", *(TITLES[task] for task in TASKS), "mean"], rows) + measured_on(used)


def parts_of_the_recipe() -> list[str]:
    runs, columns = paper_runs(), {"stsb": 2, "mrpc": 0, "cola": 0}  # task -> seed
    values = {
        (recipe, task): row
        for (recipe, layers, task), of_recipe in runs.items()
        for row in of_recipe
        if layers == 3 and columns.get(task) == row["seed"]
    }
    ablated = sorted(ABLATED, key=lambda recipe: main_metric(values[recipe, "stsb"])[1])
    rows = [[recipe, f"{main_metric(values[recipe, 'stsb'])[1]:.4f}", "", ""] for recipe in ablated]
    for recipe in softness():
        rows.append([recipe, "", *(f"{main_metric(values[recipe, task])[1]:.4f}" for task in ("mrpc", "cola"))])
    any_row = {task: values["ours", task] for task in columns}
    rows.append(["teacher", *(f"{main_metric(row)[2]:.4f}" for row in any_row.values())])
    rows.append(["one standard error", *(f"{standard_error(row):.4f}" for row in any_row.values())])
    return as_table(["", *(TITLES[task] for task in columns)], rows) + measured_on(list(values.values()))


def resources() -> list[str]:
    values = {
        (row["measurement"], row["model"], row["precision"], row["batch_size"]): row for row in rows_of("resources")
    }
    sizes = sorted({size for *_, size in values})

    def cell(measurement: str, model: str, precision: str, size: int, name: str) -> str:
        row = values.get((measurement, model, precision, size))
        return "" if row is None else f"{row[name]:,.0f}" if row[name] >= 100 else f"{row[name]:.3g}"

    rows = [
        [f"{model}, {precision}"]
        + [cell("training", model, precision, size, "seconds_per_step") for size in sizes[1:]]
        + [cell("training", model, precision, sizes[-1], "peak_megabytes")]
        + [cell("latency", model, precision, size, "milliseconds") for size in sizes]
        + [
            cell("inference memory", model, precision, sizes[-1], name)
            for name in ("peak_megabytes", "weights_megabytes")
        ]
        for model in dict.fromkeys(model for _, model, *_ in values)
        for precision in ("fp32", "bf16")
    ]
    rows.sort(key=lambda row: -float(row[4]))
    head = ["", *(f"training, s per step of {size}" for size in sizes[1:]), "training, peak MB"]
    head += [*(f"inference, ms per batch of {size}" for size in sizes), "inference, peak MB", "weights, MB"]
    return as_table(head, rows) + measured_on(rows_of("resources"))
