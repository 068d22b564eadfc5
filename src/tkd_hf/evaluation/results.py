"""The results of evaluations, benchmarks and reports, stored as JSON, and the gate on how much a model may lose."""

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from ..core.errors import GateFailed
from ..core.hardware import describe_hardware, describe_software
from ..inference.memory import Footprint, Parameters
from ..inference.timing import Timing
from .calibration import Calibration
from .fidelity import Fidelity
from .metrics import higher_is_better


REPORT_JSON, REPORT_MARKDOWN = "report.json", "report.md"


@dataclass
class ModelResult:
    """The results of one model.

    Args:
        name: folder or Hub id.
        backend: the runtime: `"pytorch"`, `"bitsandbytes"`, `"onnx"` or `"openvino"`.
        metrics: the task's metrics on the evaluation split.
        intervals: bootstrap 95 % confidence interval of each metric.
        calibration: calibration of the confidence; `None` for regression.
        parameters: number of parameters.
        megabytes: size of the weights on disk, in units of 10⁶ bytes.
        milliseconds: median latency of a single text.
        fidelity: agreement with the teacher; `None` for the teacher itself.
        changes: for each metric, the model's value minus the teacher's, and its 95 % interval. The interval comes from
            bootstrap resamples on which both models are evaluated.
    """

    name: str
    backend: str
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    calibration: Calibration | None
    parameters: Parameters
    megabytes: float
    milliseconds: float
    fidelity: Fidelity | None = None
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def agreement(self) -> float | None:
        """Share of examples, or of tokens, with the same prediction as the teacher.

        `None` without a teacher, and for regression.
        """
        return None if self.fidelity is None else self.fidelity.agreement

    @property
    def agreement_or_correlation(self) -> float | None:
        """The agreement with the teacher; for regression, the correlation of the scores."""
        if self.fidelity is None:
            return None
        return self.fidelity.pearson if self.fidelity.agreement is None else self.fidelity.agreement


@dataclass
class Evaluation:
    """The results of all models on one task; `tkd-hf evaluate --json` writes it.

    Args:
        task: name of the task or data set.
        split: the evaluation split.
        examples: number of examples.
        models: results per model; the teacher comes first, if there is one.
        software: versions of Python and the packages.
        hardware: processor and accelerator.
    """

    task: str
    split: str
    examples: int
    models: list[ModelResult]
    software: dict = field(default_factory=describe_software)
    hardware: dict = field(default_factory=describe_hardware)

    def to_dict(self) -> dict:
        """Return the results as a dictionary for JSON."""
        return asdict(self)

    def check_drop(self, max_drop: float) -> None:
        """Check that no model loses more than `max_drop` of the teacher's main metric.

        Args:
            max_drop: the accepted loss, in units of the metric. The main metric is the task's first.

        Raises:
            GateFailed: if a model loses more.
        """
        teacher, *students = self.models
        metric = next(iter(teacher.metrics))
        for model in students:
            check_drop(teacher.metrics[metric], model.metrics[metric], max_drop, metric, "the teacher")


@dataclass
class ModelCost:
    """The measurements of one model.

    Args:
        name: folder or Hub id. If a model is measured several times, a number is added: `runs/x (2)`.
        backend: the runtime: `"pytorch"`, `"bitsandbytes"`, `"onnx"` or `"openvino"`.
        device: the device, in torch's notation.
        dtype: the data types of the weights; see `Runner.dtype`.
        parameters: number of parameters.
        megabytes: size of the weights on disk, in units of 10⁶ bytes.
        footprint: memory and loading time, measured in a separate process.
        tokenization: median time to tokenize one text, in microseconds.
        timings: for each batch size, the timing with real texts and then one per length.
    """

    name: str
    backend: str
    device: str
    dtype: str
    parameters: Parameters
    megabytes: float
    footprint: Footprint
    tokenization: float
    timings: list[Timing]

    def timing(self, batch_size: int, length: int | None = None) -> Timing:
        """Return the timing for a batch size and a length in tokens; without a length, the one with real texts."""
        return next(timing for timing in self.timings if timing.batch_size == batch_size and timing.length == length)


@dataclass
class Benchmark:
    """The measurements of all models; `tkd-hf benchmark --json` writes it.

    Args:
        models: in the given order.
        reference: name of the model that the others are compared with.
        texts: source of the real texts.
        tokens: mean length of the real texts in tokens, after truncation, with the reference's tokenizer.
        batch_sizes: the measured batch sizes.
        lengths: the measured lengths of random texts, in tokens.
        software: versions of Python and the packages.
        hardware: processor and accelerator, and the number of threads that all models used.
    """

    models: list[ModelCost]
    reference: str
    texts: str
    tokens: float
    batch_sizes: tuple[int, ...]
    lengths: tuple[int, ...]
    software: dict = field(default_factory=describe_software)
    hardware: dict = field(default_factory=describe_hardware)

    def to_dict(self) -> dict:
        """Return the measurements as a dictionary for JSON."""
        return asdict(self)


@dataclass
class Report:
    """The measurements of all models in a report; the content of `report.json`.

    Args:
        names: short names of the models, the teacher's first.
        evaluation: metrics, and agreement with the teacher.
        benchmark: speed and memory.
        logs: the Trainer's log of each model that has one, by short name.
        disagreements: the file of examples on which a model and the teacher disagree, by short name; paths are
            relative to the report's folder.
        finished: UTC time, ISO 8601.
    """

    names: list[str]
    evaluation: Evaluation
    benchmark: Benchmark
    logs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    disagreements: dict[str, str] = field(default_factory=dict)
    finished: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def to_dict(self) -> dict:
        """Return the report as a dictionary for JSON."""
        return asdict(self)


def check_drop(reference: float, value: float, max_drop: float, metric: str, reference_name: str) -> None:
    """Refuse a model whose metric is worse than that of its reference by more than `max_drop`.

    Args:
        reference: the metric of the model that it was made from.
        value: the metric of the model itself.
        max_drop: the largest drop that passes, as an absolute number: 0.005 of accuracy is half a percentage point.
        metric: the name of the metric; `tkd_hf.evaluation.metrics` knows whether higher or lower values are better.
        reference_name: what to call the reference in the message, such as `"the teacher"`.

    Raises:
        GateFailed: if the drop is larger; the message says by how much.

    Example:

    ```python
    >>> from tkd_hf.evaluation.results import check_drop
    >>> check_drop(0.90, 0.896, 0.005, "accuracy", "the teacher")

    ```
    """
    drop, direction = (reference - value, "below") if higher_is_better(metric) else (value - reference, "above")
    if drop > max_drop + 1e-12:  # tolerate rounding: 0.90 - 0.895 is slightly more than 0.005 in binary
        raise GateFailed(
            f"the gate was missed by {drop - max_drop:.4f}: {metric} {value:.4f} is {drop:.4f} {direction} "
            f"{reference_name} ({reference:.4f}), and max_drop allows {max_drop:g}"
        )
