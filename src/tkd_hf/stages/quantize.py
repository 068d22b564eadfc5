"""`tkd-hf quantize`: a model in fewer bits, or for another runtime, and what that costs and gains."""

import json
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..data.loading import DataArguments, load_split
from ..data.tokenization import tokenize
from ..errors import GateFailed, InputError
from ..evaluation.benchmark import forward_pass, max_input_length, text_batch, time_interleaved, timings
from ..evaluation.gate import check_drop
from ..evaluation.runners import load_runner, runner_config
from ..files import atomic_write, read_json
from ..labels import label_names
from ..model_loading import load_classifier, load_tokenizer, weight_files
from ..quantization import load_backend
from ..soft_labels import teacher_revision
from .benchmark import SENTENCES
from .evaluate import TIMED_SENTENCES, evaluate, first_texts
from .run_folder import RunFolder, StageRecord, fingerprint, read_record


CALIBRATION_EXAMPLES = 300


def quantize(
    model: str,
    output_dir: str | Path,
    backend: str,
    weights: str | None = None,
    data: DataArguments | None = None,
    calibration: int = CALIBRATION_EXAMPLES,
    overwrite: bool = False,
    resume: bool = False,
) -> StageRecord:
    """Quantizes a model into a folder of its own, and measures it beside the model that it was made from.

    The folder appears once all is done: what is interrupted leaves none.

    Args:
        model: folder or Hub id of a classifier in floats.
        output_dir: where the quantized one goes.
        backend, weights: one of `tkd_hf.quantization.BACKENDS`, and one of its schemes, by default its first.
        data: the task, or the data set: its evaluation split says what was lost, and some schemes are calibrated on
            its training split.
        calibration: training examples to calibrate on, where the scheme needs them.
        overwrite: delete the run that the folder holds.
        resume: a finished run is returned as it is.

    Returns:
        the record of the run. Its metrics are those of the quantized model on the evaluation split, its agreement with
        the model in floats (of scores the correlation), megabytes, and speed; its `details` say how it was quantized
        and what the model in floats was like.

    Raises:
        InputError: for a backend that is unknown or not installed, a model that is quantized already or cannot be
            loaded, bad data, or a folder that holds another run.
    """
    scheme, weights = load_backend(backend, weights)
    config = runner_config(model)
    _check_floats(model, config.to_dict())
    calibrated = weights in getattr(scheme, "CALIBRATED_SCHEMES", ())
    if calibrated and data is None:
        raise InputError(f"weights={weights} of {backend} are calibrated on training examples: name the data (--task)")
    evaluation, task = load_split(data, "eval", label_names(config)) if data else (None, None)
    train = load_split(data, "train", label_names(config))[0] if calibrated else None
    if data and "label" not in evaluation.column_names:
        raise InputError(f"split {task.eval_split!r} of {task.name} has no labels to evaluate against")
    record = StageRecord(
        "quantize",
        inputs={
            "model": model,
            "model_revision": teacher_revision(model),
            **({"task": task.name, "eval": fingerprint(evaluation)} if data else {}),
            **({"train": fingerprint(train)} if calibrated else {}),
        },
        arguments={
            "backend": backend,
            "weights": weights,
            **({"max_length": data.max_length} if data else {}),
            **({"calibration": calibration} if calibrated else {}),
        },
    )
    run = RunFolder(output_dir, record, overwrite, resume)
    if run.done:
        return run.record
    with run.replace_when_done() as folder:
        classifier, tokenizer = load_classifier(model, task and task.problem_type), load_tokenizer(model)

        def examples() -> Iterator[dict[str, torch.Tensor]]:
            return calibration_batches(train, tokenizer, calibration, data.max_length)

        details = scheme.quantize(classifier, tokenizer, folder, weights=weights, calibration=examples)
        del classifier  # its memory
        record_quantization(folder, {"backend": backend, **details})
        floats, record.metrics = _measure(model, str(folder), data, evaluation)
        record.details = {"quantization": {"backend": backend, **details, "float": floats}}
    return run.record


def check_quantization_gate(record: StageRecord, max_drop: float) -> None:
    """Passes a quantized model that loses at most `max_drop` of the main metric; `GateFailed` otherwise.

    Raises:
        InputError: if the run had no data to measure it on.
    """
    before = record.details["quantization"]["float"]["metrics"]
    if not before:
        raise InputError(f"max_drop={max_drop} is how much of a metric may be lost: name the data (--task)")
    metric = next(iter(before))
    try:
        check_drop(before[metric], record.metrics[metric], max_drop, metric, "the model in floats")
    except GateFailed as missed:
        way_out = "; the student can learn it: tkd-hf distill TEACHER --student MODEL --quantization-aware dynamic"
        raise GateFailed(f"{missed}{way_out}") from None


def _check_floats(model: str, config: dict[str, Any]) -> None:
    """Raises an `InputError` for what is quantized or exported already, with what it was made from, if known."""
    noted = config.get("quantization") or config.get("quantization_config")
    if not noted and (weight_files(model) or not Path(model).is_dir()):
        return
    record = read_record(model) if Path(model).is_dir() else None
    source = f", {record.inputs['model']}" if record and "model" in record.inputs else ""
    how = noted and (noted.get("backend") or noted.get("quant_method"))
    what = f"is quantized already (by {how})" if noted else "holds no PyTorch weights"
    raise InputError(f"{model!r} {what}; quantize the model in floats that it was made from{source}")


def record_quantization(folder: Path, details: dict[str, Any]) -> None:
    """Says in a model's `config.json` how it was quantized; nobody acts on that entry, `quantization`."""
    path = folder / "config.json"
    config = read_json(path, hint="write it anew")
    with atomic_write(path) as file:
        file.write_text(json.dumps({**config, "quantization": details}, indent=2) + "\n", encoding="utf-8")


def calibration_batches(
    examples: Dataset, tokenizer: PreTrainedTokenizerBase, count: int, max_length: int = 128
) -> Iterator[dict[str, torch.Tensor]]:
    """Examples from all over a data set, each a batch of its own, without padding: ranges of padding say nothing."""
    count = min(count, len(examples))
    chosen = examples.select([place * len(examples) // count for place in range(count)])
    features = tokenize(chosen, tokenizer, max_length)
    for row in features.select_columns([name for name in tokenizer.model_input_names if name in features.features]):
        yield {name: torch.tensor([values]) for name, values in row.items()}


def _measure(
    model: str, quantized: str, data: DataArguments | None, examples: Dataset | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The figures of the model in floats, and of the quantized one."""
    runners = [load_runner(name) for name in (model, quantized)]
    texts = first_texts(examples, TIMED_SENTENCES) if data else [(sentence,) for sentence in SENTENCES]
    longest = min(data.max_length if data else DataArguments.max_length, max_input_length(runners[0].config))
    rounds = (
        [forward_pass(runner, text_batch(runner, [text], longest)) for runner in runners]
        for text in islice(cycle(texts), TIMED_SENTENCES)
    )
    before, after = timings(time_interleaved(rounds), batch_size=1)
    found = evaluate(quantized, data, teacher=model).models if data else (None, None)
    floats = {
        "metrics": found[0].metrics if data else {},
        "megabytes": runners[0].megabytes,
        "milliseconds": before.p50,
    }
    return floats, {
        **(found[1].metrics | {"agreement": found[1].agreement_or_correlation} if data else {}),
        "megabytes": runners[1].megabytes,
        "milliseconds": after.p50,
        "speedup": after.speedup,
        "speedup_interval": after.interval,
    }
