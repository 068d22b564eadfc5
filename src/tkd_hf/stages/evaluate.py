"""`tkd-hf evaluate`: what a model is worth, and how near it is to its teacher."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ..data.features import to_tuple, tokenize
from ..data.loading import DataArguments, load_split
from ..data.tasks import Task
from ..errors import InputError
from ..evaluation.benchmark import median_latencies
from ..evaluation.calibration import Calibration, calibration
from ..evaluation.cost import Parameters, count_parameters
from ..evaluation.fidelity import Fidelity, disagreements, fidelity
from ..evaluation.gate import check_drop
from ..evaluation.intervals import bootstrap, confidence_interval
from ..evaluation.metrics import metric_functions, score
from ..evaluation.predictions import Predictions
from ..evaluation.runners import Runner, load_runner, runner_config
from ..files import atomic_write
from ..hardware import describe_hardware, describe_software
from ..inference import predict_logits
from ..labels import label_names, label_order
from ..model_names import short_names


TIMED_SENTENCES = 100


@dataclass
class ModelResult:
    """What one model is worth.

    Args:
        name: folder or Hub id.
        backend: what runs it: `"pytorch"`, `"bitsandbytes"`, `"onnx"` or `"openvino"`.
        metrics: the task's, on the evaluation split.
        intervals: of each metric the bootstrap's 95 % interval.
        calibration: `None` for scores.
        parameters: numbers of weights.
        megabytes: size of the weights on disk, in 10⁶ bytes.
        milliseconds: median time of a sentence, one at a time.
        fidelity: to the teacher; `None` for the teacher itself.
        changes: of each metric the model's less the teacher's, and its 95 % interval, from the same resamples.
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
        """Share of examples, or of tokens, on which it answers as the teacher does."""
        return self.fidelity and self.fidelity.agreement

    @property
    def agreement_or_correlation(self) -> float | None:
        """The agreement, or of scores the correlation with the teacher's."""
        return self.fidelity and (self.fidelity.pearson if self.agreement is None else self.agreement)


@dataclass
class Evaluation:
    """What was measured, on how many examples of which task, on what machine.

    Args:
        models: the teacher first, if there is one.
    """

    task: str
    split: str
    examples: int
    models: list[ModelResult]
    software: dict = field(default_factory=describe_software)
    hardware: dict = field(default_factory=describe_hardware)

    def to_dict(self) -> dict:
        """For JSON."""
        return asdict(self)

    def check_drop(self, max_drop: float) -> None:
        """Passes a model that loses at most `max_drop` of the teacher's main metric; `GateFailed` otherwise."""
        teacher, *others = self.models
        metric = next(iter(teacher.metrics))
        for model in others:
            check_drop(teacher.metrics[metric], model.metrics[metric], max_drop, metric, "the teacher")


def evaluate(
    model: str | Sequence[str],
    data: DataArguments,
    teacher: str | None = None,
    batch_size: int = 128,
    disagreements_file: str | Path | None = None,
) -> Evaluation:
    """Measures a model, and its teacher beside it, on the evaluation split, in float32 or as the model was saved.

    Args:
        model: folder or Hub id of a classifier of texts, or of tokens, in PyTorch or exported (see
            `tkd_hf.evaluation.runners`); or several.
        data: the task, or the data set.
        teacher: folder or Hub id to compare with.
        batch_size: examples at a time for the metrics; times are of single sentences.
        disagreements_file: where the examples that model and teacher answer differently are to be written, a line of
            JSON each, those first of which the model is most confident; for several models, a name with `{model}`.

    Returns:
        the teacher's result first, if there is one, then the models'.

    Raises:
        InputError: for bad data, models that cannot be loaded, labels that do not match, answers that are no numbers.
    """
    models = to_tuple(model)
    if disagreements_file and not teacher:
        raise InputError(f"{disagreements_file} is to hold where the model and a teacher differ: name the teacher")
    examples, task = load_split(data, "eval", fallback_label_names=label_names(runner_config(models[0])))
    if "label" not in examples.column_names:
        raise InputError(f"split {task.eval_split!r} of {task.name} has no labels to evaluate against")
    runners = [load_runner(name, task.problem_type) for name in ((teacher, *models) if teacher else models)]
    times = median_latencies(runners, first_texts(examples, TIMED_SENTENCES), data.max_length)
    predicted = [predict(runner, examples, task, data.max_length, batch_size) for runner in runners]
    resampled = [
        bootstrap(metric_functions(found, task.metrics, task.label_names), len(examples)) for found in predicted
    ]
    results = [_result(*one, task) for one in zip(runners, predicted, resampled, times, strict=True)]
    if teacher:
        for result, found, values in zip(results[1:], predicted[1:], resampled[1:], strict=True):
            result.fidelity = fidelity(predicted[0], found, task.label_names)
            result.changes = _changes(results[0], result, values - resampled[0])
    if disagreements_file:
        rows = examples.remove_columns("label").to_list()
        for name, found in zip(short_names(models), predicted[1:], strict=True):
            path = str(disagreements_file).replace("{model}", name.replace("/", "-"))
            write_json_lines(path, disagreements(predicted[0], found, rows, task.label_names))
    return Evaluation(task.name, task.eval_split, len(examples), results)


def predict(runner: Runner, examples: Dataset, task: Task, max_length: int = 128, batch_size: int = 128) -> Predictions:
    """A model's answers to examples, with its labels in the order of the task's."""
    features = tokenize(examples, runner.tokenizer, max_length)
    logits = predict_logits(runner, features, batch_size, runner.name)
    order = label_order(label_names(runner.config), task.label_names, f"model {runner.name}", "data")
    if order:
        logits = [answer[:, order] for answer in logits] if isinstance(logits, list) else logits[:, order]
    labels = features["label"][:]
    return Predictions(logits, labels if isinstance(logits, list) else np.asarray(labels), task.problem_type)


def first_texts(examples: Dataset, count: int) -> list[tuple[str, ...]]:
    """The first texts or pairs; words in one line."""
    rows = examples.select(range(min(count, len(examples))))
    columns = [rows[name] for name in ("text", "text_pair") if name in rows.column_names]
    return [
        tuple(" ".join(text) if isinstance(text, list) else text for text in row) for row in zip(*columns, strict=True)
    ]


def write_json_lines(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """A line of JSON for each row; the file appears whole or not at all."""
    try:
        with atomic_write(path) as file:
            file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


def _result(
    runner: Runner, predictions: Predictions, resampled: np.ndarray, milliseconds: float, task: Task
) -> ModelResult:
    return ModelResult(
        name=runner.name,
        backend=runner.backend,
        metrics=score(predictions.logits, predictions.labels, task.metrics, task.problem_type, task.label_names),
        intervals=dict(zip(task.metrics, map(confidence_interval, resampled.T), strict=True)),
        calibration=calibration(predictions),
        parameters=count_parameters(runner.config),
        megabytes=runner.megabytes,
        milliseconds=milliseconds,
    )


def _changes(teacher: ModelResult, model: ModelResult, differences: np.ndarray) -> dict[str, dict[str, Any]]:
    return {
        metric: {"change": value - teacher.metrics[metric], "interval": confidence_interval(resampled)}
        for (metric, value), resampled in zip(model.metrics.items(), differences.T, strict=True)
    }
