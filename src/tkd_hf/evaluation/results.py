"""The results of evaluations, benchmarks and reports, stored as JSON, and the gate on how much a model may lose."""

import math
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from datetime import UTC, datetime
from types import NoneType, UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

from ..core.errors import GateFailed, InputError, is_at_most
from ..core.hardware import describe_hardware, describe_software
from ..inference.memory import Footprint, Parameters
from ..inference.timing import Timing
from .calibration import Calibration
from .fidelity import Fidelity
from .metrics import higher_is_better


REPORT_JSON, REPORT_MARKDOWN = "report.json", "report.md"


class Results:
    """Results that are stored as JSON and read again."""

    def to_dict(self) -> dict[str, Any]:
        """Return the results as a dictionary for JSON."""
        return asdict(self)  # type: ignore[call-overload]  # subclasses are dataclasses

    @classmethod
    def from_dict(cls, content: Any) -> Self:
        """Return the results that `to_dict` made into a dictionary; fields that this version does not know are dropped.

        Raises:
            InputError: if a field is missing or has another type; the message names it.
        """
        return _read(cls, content, cls.__name__)


@dataclass
class ModelResult:
    """The results of one model.

    Args:
        name: folder or Hub id.
        backend: the runtime: `"pytorch"` or the name of a backend, such as `"onnx"`.
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
class Evaluation(Results):
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
    software: dict[str, Any] = field(default_factory=describe_software)
    hardware: dict[str, Any] = field(default_factory=describe_hardware)

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
        backend: the runtime: `"pytorch"` or the name of a backend, such as `"onnx"`.
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
class Benchmark(Results):
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
    software: dict[str, Any] = field(default_factory=describe_software)
    hardware: dict[str, Any] = field(default_factory=describe_hardware)


@dataclass
class Report(Results):
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
    if is_at_most(drop, max_drop):
        return
    if not math.isfinite(drop - max_drop):
        raise GateFailed(
            f"the gate compares {metric} {value:.4f} with {reference_name} ({reference:.4f}), and max_drop is "
            f"{max_drop:g}; a number that is not finite never passes"
        )
    raise GateFailed(
        f"the gate was missed by {drop - max_drop:.4f}: {metric} {value:.4f} is {drop:.4f} {direction} "
        f"{reference_name} ({reference:.4f}), and max_drop allows {max_drop:g}"
    )


def _read(kind: Any, content: Any, path: str) -> Any:
    """Return JSON as a value of a type: a dataclass, a list, a tuple, a dictionary, an optional or a plain value."""
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin is Any:
        return content
    if origin is UnionType:
        return (
            None if content is None else _read(next(part for part in arguments if part is not NoneType), content, path)
        )
    if is_dataclass(kind):
        return _read_dataclass(kind, content, path)
    accepted = {float: (float, int), tuple: (tuple, list)}.get(origin, origin)
    if not isinstance(content, accepted) or (isinstance(content, bool) and origin is not bool):
        raise InputError(f"{path} is {content!r:.50} instead of {origin.__name__}")
    if origin is dict and arguments:
        return {name: _read(arguments[1], value, f"{path}.{name}") for name, value in content.items()}
    if origin in (list, tuple) and arguments:
        if len(arguments) > 1 and Ellipsis not in arguments and len(arguments) != len(content):
            raise InputError(f"{path} has {len(content)} values instead of {len(arguments)}")
        return origin(_read(arguments[0], value, f"{path}[{index}]") for index, value in enumerate(content))
    return content


def _read_dataclass(kind: Any, content: Any, path: str) -> Any:
    if not isinstance(content, dict):
        raise InputError(f"{path} is {content!r:.50} instead of an object")
    types, values = get_type_hints(kind), {}
    for entry in fields(kind):
        if entry.name in content:
            values[entry.name] = _read(types[entry.name], content[entry.name], f"{path}.{entry.name}")
        elif entry.default is MISSING and entry.default_factory is MISSING:
            raise InputError(f"{path}.{entry.name} is missing")
    return kind(**values)
