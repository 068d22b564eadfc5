"""`tkd-hf quantize`: quantize or export a model, and compare it with the float model."""

import json
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..core.errors import GateFailed, InputError
from ..core.files import atomic_write, read_json
from ..core.names import label_names
from ..core.options import accepts
from ..data.arguments import DataArguments
from ..data.loading import load_split
from ..data.tasks import Task
from ..data.tokenization import tokenize
from ..evaluation.results import check_drop
from ..inference.runners import load_runner, runner_config
from ..inference.timing import forward_pass, text_batch, time_interleaved, timings
from ..models.architectures import max_input_length
from ..models.loading import load_classifier_with_tokenizer, weight_files
from ..quantization import load_backend
from ..records.inputs import data_fields, fingerprint, teacher_revision
from ..records.recorded import recorded_evaluation
from ..records.run_folder import RunFolder, StageRecord, read_record
from .benchmark import SENTENCES
from .evaluate import TIMED_SENTENCES, evaluate, first_texts
from .options import QuantizeOptions


@accepts(QuantizeOptions)
def quantize(options: QuantizeOptions) -> StageRecord:
    """Quantize or export a model into a folder, and measure it beside the float model.

    See `tkd_hf.quantization` for which backend to choose. The folder appears only when everything is done, so an
    interrupted run leaves nothing behind.

    Returns:
        the record of the run. Its metrics are those of the quantized model on the evaluation split, its agreement with
        the float model (for scores their correlation), megabytes, and speed. Its `details` describe the quantization
        and hold the metrics of the float model.

    Raises:
        InputError: if the backend is unknown or not installed, the model is already quantized or cannot be loaded, the
            data is missing or has no labels, or the folder holds another run.

    Example:

    ```python
    from tkd_hf import DataArguments, quantize

    record = quantize("runs/student", "runs/student-int8", "onnx", data=DataArguments(task="sst2"))
    print(record.metrics["agreement"], record.metrics["speedup"])
    ```
    """
    model, backend = options.model, options.backend
    chosen, weights = load_backend(backend, options.weights)
    config = runner_config(model)
    _check_not_quantized(model, config.to_dict())
    data, evaluation, task = _evaluation_data(options, label_names(config))
    calibrated = weights in chosen.calibrated_schemes
    if calibrated and data is None:
        raise InputError(
            f"weights={weights} of {backend} needs training examples for calibration: name the data (--task)"
        )
    inputs: dict[str, Any] = {"model": model, "model_revision": teacher_revision(model)}
    arguments: dict[str, Any] = {"backend": backend, "weights": weights}
    train = None
    if data is not None and evaluation is not None and task is not None:
        if "label" not in evaluation.column_names:
            raise InputError(
                f"split {task.eval_split!r} of {task.name} has no labels to evaluate against; name a labelled split "
                "(--eval-split)"
            )
        inputs |= {"task": task.name, "eval": fingerprint(evaluation), "data": data_fields(data)}
        arguments["max_length"] = data.max_length
        if calibrated:
            train, _ = load_split(data, "train", label_names(config))
            inputs["train"], arguments["calibration"] = fingerprint(train), options.calibration
    record = StageRecord("quantize", inputs=inputs, arguments=arguments)
    run = RunFolder(options.output_dir, record, options.overwrite, options.resume)
    if run.done:
        return run.record
    with run.replace_when_done() as folder:
        classifier, tokenizer = load_classifier_with_tokenizer(model, task.problem_type if task else None)

        def examples() -> Iterator[dict[str, torch.Tensor]]:
            if data is None or train is None:
                raise RuntimeError(f"{backend} does not list {weights} in calibrated_schemes, but asks for examples")
            return calibration_batches(train, tokenizer, options.calibration, data.max_length)

        details = chosen.quantize(classifier, tokenizer, folder, weights=weights, calibration=examples)
        del classifier  # frees its memory before both models are measured
        record_quantization(folder, {"backend": backend, **details})
        float_results, record.metrics = _measure(model, str(folder), data, evaluation)
        record.details = {"quantization": {"backend": backend, **details, "float": float_results}}
    return run.record


def check_quantization_gate(record: StageRecord, max_drop: float) -> None:
    """Raise `GateFailed` if a quantized model loses more than `max_drop` of its main metric.

    Raises:
        GateFailed: with the drop and a hint how to avoid it.
        InputError: if the run had no data to measure the metric on.
    """
    before = record.details["quantization"]["float"]["metrics"]
    if not before:
        raise InputError(
            f"max_drop={max_drop} limits the drop of a metric, and measuring it needs data: name the data (--task)"
        )
    metric = next(iter(before))
    try:
        check_drop(before[metric], record.metrics[metric], max_drop, metric, "the float model")
    except GateFailed as failure:
        raise GateFailed(
            f"{failure}; train the student for quantization first: "
            "tkd-hf distill TEACHER --student MODEL --quantization-aware dynamic"
        ) from None


def _check_not_quantized(model: str, config: dict[str, Any]) -> None:
    """Raise an `InputError` if a model is already quantized or exported; name its float model if that is known."""
    quantization = config.get("quantization") or config.get("quantization_config")
    if not quantization and (weight_files(model) or not Path(model).is_dir()):
        return
    record = read_record(model) if Path(model).is_dir() else None
    source = f", {record.inputs['model']}" if record and "model" in record.inputs else ""
    if quantization:
        problem = f"is already quantized (by {quantization.get('backend') or quantization.get('quant_method')})"
    else:
        problem = "holds no PyTorch weights"
    raise InputError(f"{model!r} {problem}; quantize the float model that it was made from{source}")


def _evaluation_data(
    options: QuantizeOptions, names: tuple[str, ...]
) -> tuple[DataArguments | None, Dataset | None, Task | None]:
    """Return the data to measure on, or else that of the model's run; `None` if there is none."""
    if options.data is not None:
        return options.data, *load_split(options.data, "eval", names)
    finished = read_record(options.output_dir) if options.resume else None
    if finished is not None and "eval" not in finished.inputs:  # version 0.1.0 measured without data if none was named
        return None, None, None
    return recorded_evaluation(options.model, names) or (None, None, None)


def record_quantization(folder: Path, details: dict[str, Any]) -> None:
    """Write how a model was quantized into its `config.json`, as `quantization`, for readers of the folder."""
    path = folder / "config.json"
    config = read_json(path, hint="quantize the model again")
    with atomic_write(path) as file:
        file.write_text(json.dumps({**config, "quantization": details}, indent=2) + "\n", encoding="utf-8")


def calibration_batches(
    examples: Dataset, tokenizer: PreTrainedTokenizerBase, count: int, max_length: int = 128
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield evenly spaced examples of a dataset, one per batch, to calibrate a quantized model on.

    Each batch holds one example, because padding would distort the measured ranges of activations.

    Args:
        examples: dataset with a column `text` and optionally `text_pair`.
        tokenizer: tokenizer of the model.
        count: number of examples; at most all of them.
        max_length: length in tokens at which the tokenizer truncates texts.
    """
    count = min(count, len(examples))
    chosen = examples.select([index * len(examples) // count for index in range(count)])
    features = tokenize(chosen, tokenizer, max_length)
    for row in features.select_columns([name for name in tokenizer.model_input_names if name in features.features]):
        yield {name: torch.tensor([values]) for name, values in row.items()}


def _measure(
    model: str, quantized: str, data: DataArguments | None, examples: Dataset | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure a float model and its quantized version: metrics, size and latency.

    Args:
        model, quantized: folder or Hub id of the float model, and folder of the quantized model.
        data: the task or dataset; without it, metrics and agreement are not measured.
        examples: evaluation split of the data, for texts to time.

    Returns:
        the results of the float model for the record's details, and the metrics of the quantized model.
    """
    runners = [load_runner(name) for name in (model, quantized)]
    texts = first_texts(examples, TIMED_SENTENCES) if data else [(sentence,) for sentence in SENTENCES]
    max_length = int(min(data.max_length if data else DataArguments.max_length, max_input_length(runners[0].config)))
    rounds = (
        [forward_pass(runner, text_batch(runner, [text], max_length)) for runner in runners]
        for text in islice(cycle(texts), TIMED_SENTENCES)
    )
    float_timing, timing = timings(time_interleaved(rounds), batch_size=1)
    float_results = {"metrics": {}, "megabytes": runners[0].megabytes, "milliseconds": float_timing.p50}
    metrics = {
        "megabytes": runners[1].megabytes,
        "milliseconds": timing.p50,
        "speedup": timing.speedup,
        "speedup_interval": timing.interval,
    }
    if data:
        float_model, quantized_model = evaluate(quantized, data, teacher=model).models
        float_results["metrics"] = float_model.metrics
        agreement = quantized_model.agreement_or_correlation
        metrics = {**quantized_model.metrics, "agreement": agreement, **metrics}
    return float_results, metrics
