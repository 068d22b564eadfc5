"""The quantities of results: the name, unit and format of each, declared once for console, reports and model cards."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal


if TYPE_CHECKING:  # `results` imports torch, which would delay the help of the command line
    from .results import Benchmark, Evaluation, ModelCost, ModelResult


MISSING = "–"


@dataclass(frozen=True)
class Estimate:
    """A measured value with its 95 % confidence interval."""

    value: float
    interval: Sequence[float]

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.4f} ({low:.3f}–{high:.3f})"


@dataclass(frozen=True)
class Change:
    """The difference from the teacher's value, with its 95 % confidence interval."""

    value: float
    interval: Sequence[float]

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:+.4f} ({low:+.3f} to {high:+.3f})"


@dataclass(frozen=True)
class Speedup:
    """How many times as fast as the reference a model is; the interval is `None` if it was not measured."""

    value: float
    interval: Sequence[float] | None = None
    is_reference: bool = False

    def __str__(self) -> str:
        return "reference" if self.is_reference else self.ratio("×")

    def ratio(self, sign: str = "") -> str:
        """Return the ratio, followed by a sign; that of the reference is 1."""
        if self.is_reference:
            return f"1{sign}"
        low, high = self.interval or (None, None)
        return f"{self.value:.2f}{sign}" + (f" ({low:.2f}–{high:.2f})" if self.interval else "")


def number(value: Any) -> str:
    """Format a fraction with four decimals, and a whole number with separators of thousands; nothing is a dash.

    Example:

    ```python
    >>> from tkd_hf.evaluation.columns import number
    >>> number(0.875), number(66362880)
    ('0.8750', '66,362,880')

    ```
    """
    if value is None:
        return MISSING
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def readable_name(name: str) -> str:
    """Return an identifier with spaces instead of underscores."""
    return name.replace("_", " ")


def _decimals(count: int) -> Callable[[float], str]:
    return lambda value: f"{value:.{count}f}"


def _millions(value: float) -> str:
    return f"{value / 1e6:.1f} M"


@dataclass(frozen=True)
class Column:
    """A quantity: what it is called, how its values are written, and where a result holds it.

    Args:
        name: its name in a report.
        unit: its unit, which follows the name in brackets.
        short: its name and unit on the console, where columns are narrow (as in a report).
        long: its name and unit in a model card, where a quantity has a row of its own (as in a report).
        align: texts are aligned left, numbers right.
        format: turns a value into text; it gets neither `None` nor texts.
        read: returns the value of one result, such as a `ModelResult`.
    """

    name: str
    unit: str = ""
    short: str = ""
    long: str = ""
    align: Literal["left", "right"] = "right"
    format: Callable[[Any], str] = str
    read: Callable[[Any], Any] = lambda result: result

    @property
    def heading(self) -> str:
        """The name, with the unit in brackets."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def text(self, value: Any) -> str:
        """Format a value; a missing one (`None`) is a dash, and a text stays as it is."""
        if value is None:
            return MISSING
        return value if isinstance(value, str) else self.format(value)


NAME = Column("", align="left")
PARAMETERS = Column("parameters", format=_millions, read=lambda result: result.parameters.total)
SIZE = Column("size on disk", "MB", short="MB", format=_decimals(1), read=lambda result: result.megabytes)
LATENCY = Column("median latency", "ms", short="p50 ms", format=_decimals(2), read=lambda result: result.milliseconds)
BACKEND = Column("backend", read=lambda result: result.backend)

# of a `ModelResult`
AGREEMENT = Column(
    "agreement with the teacher",
    short="agreement with teacher",
    long="same prediction as the teacher (agreement)",
    format=number,
    read=lambda result: result.agreement_or_correlation,
)
CORRELATION = replace(
    AGREEMENT,
    name="correlation with the teacher",
    short="correlation with teacher",
    long="Pearson correlation with the teacher's scores",
)
SCORE_DIFFERENCE = Column(
    "mean absolute difference of the scores",
    long="mean absolute difference from the teacher's scores",
    format=number,
    read=lambda result: result.fidelity.difference,
)
DIVERGENCE = Column(
    "KL divergence",
    short="KL",
    long="KL divergence from the teacher's probabilities, in nats",
    format=number,
    read=lambda result: result.fidelity and result.fidelity.kl,
)
TEACHER_ONLY = Column(
    "only the teacher is right",
    short="teacher",
    long="examples that only the teacher gets right",
    read=lambda result: result.fidelity.teacher_only,
)
MODEL_ONLY = Column(
    "only the model is right",
    short="model",
    long="examples that only this model gets right",
    read=lambda result: result.fidelity.model_only,
)
P_VALUE = Column(
    "p-value",
    short="p (McNemar)",
    long="p-value of the two rows above (McNemar's exact test)",
    format=lambda value: f"{value:.2g}",
    read=lambda result: result.fidelity.p_value,
)
CALIBRATION_ERROR = Column(
    "calibration error", format=number, read=lambda result: result.calibration and result.calibration.error
)

# of a `ModelCost`
DTYPE = Column("data type of the weights", short="weights", read=lambda cost: cost.dtype)
EMBEDDINGS = Column(
    "parameters: embeddings",
    long="parameters in the embeddings",
    format=_millions,
    read=lambda cost: cost.parameters.embeddings,
)
ENCODER = Column("parameters: encoder and head", format=_millions, read=lambda cost: cost.parameters.encoder)
EMBEDDINGS_AND_ENCODER = Column(
    "embeddings + encoder",
    format=lambda parts: f"{parts.embeddings / 1e6:.1f} + {parts.encoder / 1e6:.1f} M",
    read=lambda cost: cost.parameters,
)
PEAK_MEMORY = Column(
    "peak memory of the process",
    "MB",
    short="peak MB",
    format=_decimals(0),
    read=lambda cost: cost.footprint.peak_megabytes,
)
PEAK_AND_OWN_MEMORY = Column(
    "peak MB (+ model)",
    format=lambda memory: f"{memory.peak_megabytes:.0f} (+{memory.peak_megabytes - memory.before_megabytes:.0f})",
    read=lambda cost: cost.footprint,
)
LOAD_TIME = Column(
    "seconds to load", short="load s", format=_decimals(2), read=lambda cost: cost.footprint.load_seconds
)
TOKENIZATION = Column(
    "time to tokenize a text", "µs", short="tokenize µs", format=_decimals(0), read=lambda cost: cost.tokenization
)
BEST_THROUGHPUT = Column(
    "texts per second",
    format=_decimals(0),
    read=lambda cost: max(timing.throughput for timing in cost.timings if timing.length is None),
)
SPEEDUP = Column("speed-up")
DURATION = Column("seconds", format=_decimals(1))
# results in the metrics of a stage that are not metrics of the task, by their name there
STAGE_RESULTS = {
    "megabytes": SIZE,
    "milliseconds": LATENCY,
    "speedup": replace(SPEEDUP, short="speedup", long="speed-up over the model before this stage"),
    "epoch": Column("epoch", format=lambda value: f"{value:g}"),
    "seconds_per_epoch": Column("seconds per epoch", format=_decimals(1)),
}


def metric_columns(evaluation: "Evaluation") -> list[Column]:
    """Return a column per metric of the task; its values are an `Estimate` each."""
    return [Column(readable_name(metric), read=_estimate_of(metric)) for metric in evaluation.models[0].metrics]


def change_column(metric: str) -> Column:
    """Return the column for the difference of a metric from the teacher's; its values are a `Change` or `None`."""
    name = f"change of {readable_name(metric)}"
    return Column(f"{name} (model − teacher)", short=name, read=lambda result: change_of(result, metric))


def agreement_column(evaluation: "Evaluation") -> Column:
    """Return the column for the agreement with the teacher; for scores it is their correlation."""
    students = [model for model in evaluation.models if model.fidelity]
    return CORRELATION if any(model.agreement is None for model in students) else AGREEMENT


def latency_columns(batch_size: int) -> tuple[Column, Column]:
    """Return the columns for median and 95th percentile of the latency of real texts."""
    median = replace(
        LATENCY,
        short=f"p50 ms ({batch_size})",
        long=f"median latency, batch of {batch_size} (ms)",
        read=lambda cost: cost.timing(batch_size).p50,
    )
    percentile = Column(
        f"95th percentile of the latency, batch of {batch_size}",
        "ms",
        short="p95 ms",
        format=_decimals(2),
        read=lambda cost: cost.timing(batch_size).p95,
    )
    return median, percentile


def throughput_column(batch_size: int) -> Column:
    """Return the column for the texts per second in batches of this size."""
    return Column(
        f"texts per second, batches of {batch_size}",
        short=f"texts/s ({batch_size})",
        format=_decimals(0),
        read=lambda cost: cost.timing(batch_size).throughput,
    )


def speedup_column(benchmark: "Benchmark", batch_size: int, with_interval: bool = True) -> Column:
    """Return the column for the speed-up over the benchmark's reference; its values are a `Speedup` each."""
    # in a card, teacher and student may have the same name, that of their folders
    reference = next(model for model in benchmark.models if model.name == benchmark.reference)

    def speedup(cost: "ModelCost") -> Speedup:
        timing = cost.timing(batch_size)
        interval = timing.interval if with_interval else None
        return Speedup(timing.speedup, interval, is_reference=cost is reference)

    return replace(SPEEDUP, read=speedup)


def change_of(result: "ModelResult", metric: str) -> Change | None:
    """Return the difference of a metric from the teacher's; `None` for the teacher itself."""
    change = result.changes.get(metric)
    return Change(change["change"], change["interval"]) if change else None


def _estimate_of(metric: str) -> Callable[["ModelResult"], Estimate]:
    return lambda result: Estimate(result.metrics[metric], result.intervals[metric])
