"""The stages that made a model, as tables of its card; the data comes from the run record (`tkd_run.json`)."""

import re
from dataclasses import MISSING, fields
from types import SimpleNamespace
from typing import Any

from ..evaluation.columns import readable_name
from ..objectives.arguments import DistillationTrainingArguments, FineTuningArguments, PretrainingArguments
from ..records.inputs import training_arguments
from ..records.redaction import hub_id
from ..records.run_folder import StageRecord
from .markdown import Markdown, code_span, join, link, markdown_table


_LAYER_MATRIX = re.compile(r".*\.(\d+)\.(.+)")
# The defaults of `tkd_hf.pruning.arguments.PruningArguments`; a test compares them. Cards do not import pruning.
_PRUNING_DEFAULTS = {
    "importance": "taylor",
    "schedule": "cubic",
    "units": ("heads", "neurons", "layers"),
    "calibration": 256,
    "vocabulary": False,
    "scope": "global",
    "nncf": False,
}
_SPLITS = {"train": "training data", "eval": "evaluation data", "unlabelled": "unlabelled data"}
# Arguments that `stage_facts` shows, or that say nothing if they have their default.
_IN_STAGE_FACTS = {
    *("objectives", "final_objectives", "temperature", "final_temperature", "layer_map", "layers", "student"),
    *("live", "lora", "quantization", "teacher_weights"),
}


def stage_facts(record: StageRecord) -> dict[str, str]:
    """Return the facts about a stage, by name and in reading order: inputs, training objective, result, hardware.

    Facts that the record does not contain are left out.
    """
    inputs, arguments, details = record.inputs, record.arguments, record.details
    facts = {
        "starting model": _model(inputs.get("model"), inputs.get("model_revision")),
        "student": _model(arguments.get("student"), inputs.get("student_revision")),
        "teacher": _teachers(record),
        "tokenizer": inputs.get("tokenizer") and code_span(inputs["tokenizer"]),
        "data": _data(inputs),
        **{f"fingerprint of {text}": inputs.get(name) and code_span(inputs[name]) for name, text in _SPLITS.items()},
        "objectives (weight × name)": _objectives(arguments.get("objectives"), arguments.get("final_objectives")),
        "temperature": _temperature(arguments.get("temperature"), arguments.get("final_temperature")),
        "teacher's predictions": _source_of_predictions(arguments),
        "teacher layers copied into the student (zero-based)": _joined(details.get("teacher_layers")),
        "layer map (teacher layer per student layer, zero-based)": _joined(
            details.get("layer_map") or arguments.get("layer_map")
        ),
        "LoRA": _settings(arguments.get("lora")),
        "parameters": _from_to(details, "parameters", "{:,}"),
        "size of the weights (MB)": _from_to(details, "megabytes", "{:.1f}"),
        "vocabulary": _vocabulary(details.get("vocabulary"), has_unlabelled_texts="unlabelled" in inputs),
        "quantization": _settings(details.get("quantization") or arguments.get("quantization")),
        "duration": record.seconds is not None and f"{record.seconds:,.0f} seconds",
        "hardware": _hardware(record.hardware),
        "finished": record.finished,
    }
    return {name: value if isinstance(value, Markdown) else str(value) for name, value in facts.items() if value}


def removal_tables(record: StageRecord) -> Markdown:
    """Return tables of what pruning removed per layer, and of the sparsity per matrix; empty if nothing was removed."""
    tables = [_removed_units(record.details.get("removed")), _sparsity(record.details.get("sparsity"))]
    return join(filter(None, tables), "\n\n")


def non_default_arguments(record: StageRecord) -> dict[str, str]:
    """Return the arguments of a stage that differ from the defaults, except those that `stage_facts` shows."""
    defaults = _defaults(record)
    return {
        name: str(value)
        for name, value in record.arguments.items()
        if name not in _IN_STAGE_FACTS
        and value not in (None, "", [], {})
        and not (value == "False" and defaults.get(name) is None)  # transformers has such flags
        and _comparable(value) != _comparable(defaults.get(name))
    }


def _defaults(record: StageRecord) -> dict[str, Any]:
    """Return the defaults of a stage's arguments, in the form in which a record stores arguments."""
    arguments_class = FineTuningArguments if record.stage == "finetune" else DistillationTrainingArguments
    arguments_class = PretrainingArguments if record.stage == "pretrain" else arguments_class
    values = {field.name: field.default for field in fields(arguments_class) if field.default is not MISSING}
    # by default, training uses bfloat16 if the device supports it
    precision = {"bf16": bool(record.hardware.get("bf16")) and record.arguments.get("fp16") != "True", "fp16": False}
    stage_defaults: dict[str, Any] = {"max_length": 128, "mlm_probability": 0.15, "train": True}
    if record.stage == "prune":
        stage_defaults |= _PRUNING_DEFAULTS
    return stage_defaults | training_arguments(SimpleNamespace(**values | precision))


def _comparable(value: Any) -> str:
    """Return an argument as text: a record stores tuples as lists, and enums as `SchedulerType.LINEAR` or `linear`."""
    value = list(value) if isinstance(value, tuple) else value
    return re.sub(r"^[A-Z]\w*\.(?=[A-Z])", "", str(value)).casefold()


def _source_of_predictions(arguments: dict[str, Any]) -> str | None:
    if not arguments.get("train", True):
        return None
    live = arguments.get("live")
    if live is None:
        return None
    return "computed during training, per batch" if live else "soft labels, computed once before training"


def _teachers(record: StageRecord) -> str | None:
    names, revisions = record.inputs.get("teacher"), record.inputs.get("teacher_revision")
    if not isinstance(names, list):
        is_itself = names and (names, revisions) == (record.inputs.get("model"), record.inputs.get("model_revision"))
        return "the model itself, as it was before this stage" if is_itself else _model(names, revisions)
    weights = record.arguments.get("teacher_weights") or [None] * len(names)
    teachers = [
        join(filter(None, [_model(name, revision), f"weight {weight:.3g}" if weight else None]))
        for name, revision, weight in zip(names, revisions or [], weights, strict=True)
    ]
    return join(teachers, "; ")


def _model(name: str | None, revision: str | None) -> Markdown | None:
    """Return a model's name and revision; a Hub id becomes a link."""
    if not name:
        return None
    repository = hub_id(name, revision)
    kinds = {"commit": "commit", "files": "hash of its files", "state": "hash of its weights"}
    kind, _, value = str(revision).partition("-")
    parts = [link(repository, f"https://huggingface.co/{repository}") if repository else code_span(name)]
    if kind in kinds:
        parts.append(Markdown(f"{kinds[kind]} {code_span(value)}"))
    return join(parts)


def _data(inputs: dict[str, Any]) -> Markdown | None:
    name = inputs.get("dataset") or inputs.get("task")
    if not name:
        return None
    parts = [link(name, f"https://huggingface.co/datasets/{name}") if "/" in name else code_span(name)]
    if inputs.get("dataset") and inputs.get("task") not in (None, name):
        parts.append(code_span(inputs["task"]))
    if splits := inputs.get("splits"):
        parts.append(Markdown(f"trained on split {code_span(splits['train'])}"))
        parts.append(Markdown(f"evaluated on split {code_span(splits['eval'])}"))
    return join(parts)


def _objectives(weights: dict[str, float] | None, final_weights: dict[str, float] | None) -> str | None:
    def formula(weights: dict[str, float]) -> str:
        return " + ".join(f"{weight:g} × {name}" for name, weight in weights.items())

    if not weights:
        return None
    if not final_weights:
        return formula(weights)
    return f"{formula(weights)}; at the end of training {formula(final_weights)}"


def _temperature(temperature: str | None, final_temperature: str | None) -> str | None:
    if not temperature:
        return temperature
    if not final_temperature:
        return f"{float(temperature):g}"
    return f"{float(temperature):g}; at the end of training {float(final_temperature):g}"


def _joined(value: Any) -> str | None:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _settings(values: dict[str, Any] | None) -> str | None:
    """Return the settings that are switched on; nested settings are left out."""
    if not isinstance(values, dict):
        return values
    off: tuple[Any, ...] = (None, False, "", [])
    settings = {name: value for name, value in values.items() if value not in off and not isinstance(value, dict)}
    return ", ".join(f"{readable_name(name)} {value}" for name, value in settings.items())


def _from_to(details: dict[str, Any], name: str, pattern: str) -> str | None:
    before, after = (details.get(end, {}).get(name) for end in ("from", "to"))
    return None if before is None or after is None else f"{pattern.format(before)} → {pattern.format(after)}"


def _vocabulary(counts: dict[str, Any] | None, has_unlabelled_texts: bool) -> Markdown | None:
    texts = "training and unlabelled texts" if has_unlabelled_texts else "training texts"
    if not counts:
        return None
    return Markdown(
        f"{counts['tokens_before']:,} → {counts['tokens_after']:,} tokens: those that occur in the {texts} "
        "(`removed_tokens.txt` lists the removed tokens)"
    )


def _hardware(hardware: dict[str, Any]) -> str | None:
    if not hardware.get("cpu"):
        return None
    return hardware.get("accelerator") or f"{hardware['cpu']}, {hardware['threads']} of {hardware['cores']} cores"


def _removed_units(removed: dict[str, Any] | None) -> Markdown | None:
    """Return the number of heads and neurons removed per layer, and the layers and hidden units that were removed."""
    if not removed:
        return None
    layers = sorted({*removed["heads"], *removed["neurons"]}, key=int)
    rows = [[layer, *(_range_size(removed[kind].get(layer, "")) for kind in ("heads", "neurons"))] for layer in layers]
    parts: list[str] = [
        markdown_table(["layer (numbered as before pruning)", "removed heads", "removed neurons"], rows)
    ]
    complete = [f"layers {removed['layers']}"] if removed["layers"] else []
    complete += [f"{_range_size(removed['hidden'])} hidden units"] if removed["hidden"] else []
    if complete:
        parts.append(f"Removed completely: {' and '.join(complete)}.")
    return join(parts if rows else parts[1:], "\n\n")


def _range_size(ranges: str) -> int:
    """Count the indices in a text of ranges such as `0-9,12`."""
    ends = [list(map(int, part.split("-"))) for part in ranges.split(",") if part]
    return sum(part[-1] - part[0] + 1 for part in ends)


def _sparsity(sparsity: dict[str, Any] | None) -> Markdown | None:
    """Return the sparsity per layer and matrix."""
    if not sparsity:
        return None
    layers: dict[str, dict[str, float]] = {}
    for name, share in sparsity["layers"].items():
        match = _LAYER_MATRIX.fullmatch(name)
        layer, matrix = match.groups() if match else (name, "weight")
        layers.setdefault(layer, {})[matrix] = share
    matrices = list(dict.fromkeys(matrix for row in layers.values() for matrix in row))
    rows = [
        [layer, *(f"{row[matrix]:.1%}" if matrix in row else "" for matrix in matrices)]
        for layer, row in layers.items()
    ]
    return Markdown(
        f"{sparsity['share']:.1%} of the weights in these matrices are zero, which is {sparsity['share_of_model']:.1%} "
        f"of all weights. Zeros make a compressed file smaller, but do not by themselves make the model faster.\n\n"
        f"{markdown_table(['share of zeros in layer', *matrices], rows)}"
    )
