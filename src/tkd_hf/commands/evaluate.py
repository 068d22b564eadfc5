"""Evaluate models on a task, and compare them with their teacher (`tkd-hf evaluate`)."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ..core.errors import InputError
from ..core.files import atomic_write, check_output
from ..core.names import label_names, label_order, short_names
from ..core.options import accepts
from ..core.statistics import bootstrap, confidence_interval
from ..data.loading import load_split
from ..data.tasks import Task
from ..data.tokenization import to_tuple, tokenize
from ..evaluation.calibration import calibration
from ..evaluation.fidelity import disagreements, fidelity
from ..evaluation.metrics import metric_functions, score
from ..evaluation.predictions import Predictions
from ..evaluation.results import Evaluation, ModelResult
from ..inference.memory import count_parameters
from ..inference.prediction import predict_logits
from ..inference.runners import Runner, load_runner, runner_config
from ..inference.timing import median_latencies
from ..records.recorded import recorded_data
from .options import EvaluateOptions


TIMED_SENTENCES = 100


@accepts(EvaluateOptions)
def evaluate(options: EvaluateOptions) -> Evaluation:
    """Evaluate models, and optionally their teacher, on the evaluation split of a task.

    Models run in float32, except quantized models, which run as they were saved. If a teacher is given, each model is
    also compared with it: agreement, divergence, and the change of each metric.

    Returns:
        The results; the teacher's come first, if there is one.

    Raises:
        InputError: if the data is bad or has no labels, if a model cannot be loaded, if the labels of model and data do
            not match, or if the logits are not finite.

    Example:

    ```python
    from tkd_hf import DataArguments, evaluate

    result = evaluate("runs/student", DataArguments(task="sst2"), teacher="runs/teacher")
    print(result.models[1].metrics, result.models[1].agreement)
    result.check_drop(0.01)  # GateFailed if accuracy is more than 0.01 below the teacher's
    ```
    """
    teacher, disagreements_file = options.teacher, options.disagreements_file
    models = to_tuple(options.model)
    data = options.data or recorded_data(models)
    if disagreements_file:
        check_output(disagreements_file, [data.dataset, data.data_dir, teacher, *models])
    if disagreements_file and not teacher:
        raise InputError(f"disagreements_file={str(disagreements_file)!r} requires a teacher to compare with; name one")
    examples, task = load_split(data, "eval", fallback_label_names=label_names(runner_config(models[0])))
    if "label" not in examples.column_names:
        raise InputError(f"split {task.eval_split!r} of {task.name} has no labels to evaluate against")
    runners = [load_runner(name, task.problem_type) for name in ((teacher, *models) if teacher else models)]
    latencies = median_latencies(runners, first_texts(examples, TIMED_SENTENCES), data.max_length)
    predictions = [predict(runner, examples, task, data.max_length, options.batch_size) for runner in runners]
    resampled = [
        bootstrap(metric_functions(predicted, task.metrics, task.label_names), len(examples))
        for predicted in predictions
    ]
    rows = zip(runners, predictions, resampled, latencies, strict=True)
    results = [_result(*row, task) for row in rows]
    if teacher:
        for result, predicted, values in zip(results[1:], predictions[1:], resampled[1:], strict=True):
            result.fidelity = fidelity(predictions[0], predicted, task.label_names)
            result.changes = _changes(results[0], result, values - resampled[0])
    if disagreements_file:
        example_rows = examples.remove_columns("label").to_list()
        for name, predicted in zip(short_names(models), predictions[1:], strict=True):
            path = str(disagreements_file).replace("{model}", name.replace("/", "-"))
            write_json_lines(path, disagreements(predictions[0], predicted, example_rows, task.label_names))
    return Evaluation(task.name, task.eval_split, len(examples), results)


def predict(runner: Runner, examples: Dataset, task: Task, max_length: int = 128, batch_size: int = 128) -> Predictions:
    """Run a model on examples and return its logits, with the classes in the task's order.

    Args:
        runner: the loaded model; see `tkd_hf.inference.runners.load_runner`.
        examples: the examples, with labels.
        task: the task that defines the order of the classes.
        max_length: number of tokens to which texts are truncated.
        batch_size: number of examples per batch.

    Raises:
        InputError: if the labels of the model and of the task differ, or if the logits are not finite.
    """
    features = tokenize(examples, runner.tokenizer, max_length)
    logits = predict_logits(runner, features, batch_size, runner.name)
    order = label_order(label_names(runner.config), task.label_names, f"model {runner.name}", "data")
    labels = features["label"][:]
    if isinstance(logits, list):  # token classification: one array per example, with a row per token
        ordered = [rows[:, order] for rows in logits] if order else logits
        return Predictions(ordered, labels, task.problem_type)
    return Predictions(logits[:, order] if order else logits, np.asarray(labels), task.problem_type)


def first_texts(examples: Dataset, count: int) -> list[tuple[str, ...]]:
    """Return the first texts or pairs of texts; lists of words are joined with spaces."""
    rows = examples.select(range(min(count, len(examples))))
    columns = [rows[name] for name in ("text", "text_pair") if name in rows.column_names]
    return [
        tuple(" ".join(text) if isinstance(text, list) else text for text in row) for row in zip(*columns, strict=True)
    ]


def write_json_lines(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSON lines; the file is replaced only after everything is written."""
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
