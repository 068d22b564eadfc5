"""The tables of results, made once for the three printers that draw them.

A builder takes results and returns a `Table` of plain values. `cli.output.show_table` prints it on the console,
`cards.markdown.table_by_result` writes it into `report.md`, and `cards.markdown.table_by_quantity` into a model card.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from . import columns as quantities
from .columns import Column


if TYPE_CHECKING:  # these modules import torch, which would delay the help of the command line
    from ..inference.timing import Timing
    from ..records.run_folder import StageRecord
    from .results import Benchmark, Evaluation, ModelResult, Report


@dataclass(frozen=True)
class Table:
    """Rows of values, and the columns that they belong to.

    Args:
        title: what the table is about; on the console it is the heading of the first column.
        columns: the first one names the rows.
        rows: one value per column and row: a number, a text, `None` if there is no value, or an `Estimate`, `Change`
            or `Speedup`.

    Example:

    ```python
    >>> from tkd_hf.evaluation.tables import Column, Table
    >>> size = Column("size on disk", "MB", format=lambda value: f"{value:.1f}")
    >>> table = Table("", (Column("model"), size), [("teacher", 438.0), ("student", None)])
    >>> table.columns[1].heading, list(table.cells())
    ('size on disk (MB)', [['teacher', '438.0'], ['student', '–']])

    ```
    """

    title: str
    columns: tuple[Column, ...]
    rows: Sequence[tuple[Any, ...]]

    def cells(self) -> Iterator[list[str]]:
        """Yield the formatted values of each row."""
        for row in self.rows:
            yield [column.text(value) for column, value in zip(self.columns, row, strict=True)]


def table_of(title: str, names: Iterable[str], results: Iterable[Any], columns: Sequence[Column]) -> Table:
    """Return a table with a row per result: its name, and what each column reads from it."""
    rows = [(name, *(column.read(result) for column in columns)) for name, result in zip(names, results, strict=True)]
    return Table(title, (quantities.NAME, *columns), rows)


def evaluation_tables(evaluation: "Evaluation") -> list[Table]:
    """Return the metrics of all models; for the last one also how teacher and model do in each class."""
    names, last = [model.name for model in evaluation.models], evaluation.models[-1]
    columns = [
        *quantities.metric_columns(evaluation),
        quantities.agreement_column(evaluation),
        quantities.DIVERGENCE,
        quantities.CALIBRATION_ERROR,
    ]
    columns += [quantities.PARAMETERS, quantities.SIZE, replace(quantities.LATENCY, short="ms per text")]
    tables = [table_of(_data(evaluation), names, evaluation.models, columns)]
    recalls = recall_table({"model": last}, "recall")
    if recalls is None or last.fidelity is None:
        return tables
    rows = [(*row, entry.change) for row, entry in zip(recalls.rows, last.fidelity.classes, strict=True)]
    change = Column("change", format=lambda value: f"{value:+.4f}")
    decisions = table_of(
        "only one is correct",
        ["examples"],
        [last],
        [quantities.TEACHER_ONLY, quantities.MODEL_ONLY, quantities.P_VALUE],
    )
    return [*tables, replace(recalls, columns=(*recalls.columns, change), rows=rows), decisions]


def overview_table(report: "Report") -> Table:
    """Return the first table of a report: quality, speed and size of each model."""
    metrics = quantities.metric_columns(report.evaluation)
    change = quantities.change_column(next(iter(report.evaluation.models[0].metrics)))
    speedup = quantities.speedup_column(report.benchmark, report.benchmark.batch_sizes[0])
    return _quality_and_cost(report, [*metrics, change], [speedup, quantities.SIZE, quantities.PARAMETERS])


def summary_table(report: "Report") -> Table:
    """Return the part of a report that fits on a console: metrics and speed-up without intervals, memory and size."""
    metrics = quantities.metric_columns(report.evaluation)
    values = [replace(column, format=lambda estimate: quantities.number(estimate.value)) for column in metrics]
    batch_size = report.benchmark.batch_sizes[0]
    speedup = quantities.speedup_column(report.benchmark, batch_size, with_interval=False)
    return _quality_and_cost(report, values, [speedup, quantities.SIZE, quantities.PEAK_MEMORY])


def _quality_and_cost(report: "Report", quality: Sequence[Column], cost: Sequence[Column]) -> Table:
    """Return a table of quality, agreement, latency and cost."""
    evaluation, benchmark = report.evaluation, report.benchmark
    latency = replace(quantities.latency_columns(benchmark.batch_sizes[0])[0], short="p50 ms")
    left = table_of("", report.names, evaluation.models, [*quality, quantities.agreement_column(evaluation)])
    right = table_of("", report.names, benchmark.models, [latency, *cost])
    rows = [(*values, *costs[1:]) for values, costs in zip(left.rows, right.rows, strict=True)]
    return Table(_data(evaluation), (*left.columns, *right.columns[1:]), rows)


def agreement_table(students: Mapping[str, "ModelResult"]) -> Table:
    """Return how far the predictions of students (or their scores, in regression) agree with the teacher's."""
    columns = [
        quantities.AGREEMENT,
        quantities.DIVERGENCE,
        quantities.TEACHER_ONLY,
        quantities.MODEL_ONLY,
        quantities.P_VALUE,
        quantities.CALIBRATION_ERROR,
    ]
    if any(model.agreement is None for model in students.values()):
        columns = [quantities.CORRELATION, quantities.SCORE_DIFFERENCE]
    return table_of("", students, students.values(), columns)


def card_agreement_table(student: "ModelResult") -> Table:
    """Return how far one student agrees with the teacher, for a model card."""
    if student.agreement is None:
        return table_of(
            "scores of this model and the teacher",
            [""],
            [student],
            [quantities.CORRELATION, quantities.SCORE_DIFFERENCE],
        )
    agreement = replace(quantities.AGREEMENT, format=lambda value: f"{value:.2%}")
    columns = [agreement, quantities.DIVERGENCE, quantities.MODEL_ONLY, quantities.TEACHER_ONLY, quantities.P_VALUE]
    return table_of("predictions of this model and the teacher", [""], [student], columns)


def recall_table(students: Mapping[str, "ModelResult"], title: str = "", teacher: str = "teacher") -> Table | None:
    """Return the recall per class of the teacher and of each student; `None` if there are no classes."""
    classes = [model.fidelity.classes if model.fidelity else [] for model in students.values()]
    if not classes or not classes[0]:
        return None
    rows = []
    for same_class in zip(*classes, strict=True):  # one entry per student
        first = same_class[0]
        rows.append((first.name, first.examples, first.teacher, *(entry.model for entry in same_class)))
    recalls = [Column(name, format=quantities.number) for name in (teacher, *students)]
    return Table(title, (Column("class", align="left"), Column("examples"), *recalls), rows)


def comparison_table(evaluation: "Evaluation") -> Table:
    """Return the metrics of a teacher and one student, and their difference; a row is a model."""
    _, student = evaluation.models
    columns = quantities.metric_columns(evaluation)
    differences: list[Any] = [quantities.change_of(student, metric) for metric in student.metrics]
    if student.calibration:
        columns.append(quantities.CALIBRATION_ERROR)
        differences.append("")
    table = table_of("", ["teacher", "this model"], evaluation.models, columns)
    return replace(table, rows=[*table.rows, ("difference (this model − teacher)", *differences)])


def benchmark_table(benchmark: "Benchmark") -> Table:
    """Return a row per model: latency for real texts at the smallest batch size, throughput at the largest."""
    smallest, largest, threads = min(benchmark.batch_sizes), max(benchmark.batch_sizes), benchmark.hardware["threads"]
    columns = [
        quantities.BACKEND,
        quantities.DTYPE,
        quantities.EMBEDDINGS_AND_ENCODER,
        quantities.SIZE,
        quantities.PEAK_AND_OWN_MEMORY,
        quantities.LOAD_TIME,
    ]
    columns += [
        quantities.TOKENIZATION,
        *quantities.latency_columns(smallest),
        quantities.speedup_column(benchmark, smallest),
    ]
    title = f"{benchmark.texts}, {threads} thread{'s' * (threads > 1)}"
    names = [model.name for model in benchmark.models]
    return table_of(title, names, benchmark.models, [*columns, quantities.throughput_column(largest)])


def resources_table(report: "Report") -> Table:
    """Return the parameters, size, memory, loading time and throughput of each model of a report."""
    columns = [
        quantities.BACKEND,
        quantities.DTYPE,
        quantities.EMBEDDINGS,
        quantities.ENCODER,
        quantities.SIZE,
        quantities.PEAK_MEMORY,
        quantities.LOAD_TIME,
        quantities.BEST_THROUGHPUT,
    ]
    return table_of("", report.names, report.benchmark.models, [*columns, quantities.TOKENIZATION])


def card_speed_table(benchmark: "Benchmark") -> Table:
    """Return latency, throughput, size and memory of teacher and student, for a model card."""
    smallest, largest = min(benchmark.batch_sizes), max(benchmark.batch_sizes)
    speedup = replace(
        quantities.speedup_column(benchmark, smallest),
        long="speed-up over the teacher",
        format=lambda value: value.ratio(),
    )
    columns = [
        *quantities.latency_columns(smallest),
        speedup,
        quantities.throughput_column(largest),
        quantities.PARAMETERS,
        quantities.EMBEDDINGS,
    ]
    columns += [quantities.SIZE, quantities.PEAK_MEMORY, quantities.LOAD_TIME, quantities.DTYPE, quantities.BACKEND]
    return table_of("", ["teacher", "this model"], benchmark.models, columns)


def latency_table(report: "Report") -> Table:
    """Return median latency and speed-up per batch size and length; a column is a model."""

    def latency_and_speedup(timing: "Timing") -> str:
        return f"{timing.p50:.2f} ({quantities.Speedup(timing.speedup)})"

    rows = []
    for timings in zip(*(model.timings for model in report.benchmark.models), strict=True):
        size, length = timings[0].batch_size, timings[0].length
        rows.append((f"{size} × {length or 'real texts'}", *timings))
    models = [Column(name, format=latency_and_speedup) for name in report.names]
    return Table("", (Column("batch size × tokens", align="left"), *models), rows)


def agreement_partner(record: "StageRecord") -> str:
    """Return with whom a stage's metric `agreement` compares the model.

    That is the float model for quantization, and otherwise the teacher. Without a teacher of its own, `prune` takes the
    model itself as it was before, and an agreement with it says nothing about the teacher of that model.
    """
    inputs = record.inputs
    teacher, model = ((inputs.get(name), inputs.get(f"{name}_revision")) for name in ("teacher", "model"))
    if record.stage == "quantize":
        return "the float model"
    return "the model before this stage" if inputs.get("teacher") and teacher == model else "the teacher"


def result_column(name: str, record: "StageRecord") -> Column:
    """Return the column for a result in a stage's metrics."""
    if name == "agreement":
        name = f"agreement with {agreement_partner(record)}"
        return Column(name, short=name.replace(" the ", " "), format=quantities.number)
    return quantities.STAGE_RESULTS.get(name, Column(quantities.readable_name(name), format=quantities.number))


def metrics_table(record: "StageRecord", names: Iterable[str], title: str = "metric") -> Table:
    """Return the metrics of a stage in one row, without a name; `names` are those of the metrics to show."""
    results = {name: record.metrics[name] for name in names}
    values = [quantities.Speedup(value) if name == "speedup" else value for name, value in results.items()]
    return Table(title, (quantities.NAME, *(result_column(name, record) for name in results)), [("", *values)])


def stage_table(name: str, record: "StageRecord") -> Table:
    """Return the metrics of a training stage and its duration, in one row with the name of its folder."""
    table = metrics_table(record, record.metrics, title="")
    [(_, *values)] = table.rows
    return replace(table, columns=(*table.columns, quantities.DURATION), rows=[(name, *values, record.seconds)])


def quantization_table(model: str, quantized: str, record: "StageRecord") -> Table:
    """Return the float model and the quantized one, as the record of the quantization compares them."""
    before, after = record.details["quantization"]["float"], record.metrics
    names = [*before["metrics"], "agreement"] if before["metrics"] else []
    names += ["megabytes", "milliseconds"]
    float_results = {**before["metrics"], **before}
    speedups = (
        quantities.Speedup(1.0, is_reference=True),
        quantities.Speedup(after["speedup"], after["speedup_interval"]),
    )
    rows = [
        (model, *(float_results.get(name) for name in names), speedups[0]),
        (quantized, *(after[name] for name in names), speedups[1]),
    ]
    columns = [result_column(name, record) for name in names]
    return Table(record.inputs.get("task", ""), (quantities.NAME, *columns, quantities.SPEEDUP), rows)


def _data(evaluation: "Evaluation") -> str:
    return f"{evaluation.task} ({evaluation.examples})"
