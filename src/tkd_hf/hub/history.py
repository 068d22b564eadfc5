"""How a model was made, stage by stage, in words: from the record, and nothing that it does not say."""

import re
from dataclasses import MISSING, fields
from types import SimpleNamespace
from typing import Any

from ..reporting.tables import markdown_table, readable_name
from ..stages.run_folder import StageRecord
from ..stages.training import training_arguments
from ..training_args import DistillationTrainingArguments, FineTuningArguments
from .redaction import hub_id


_MATRIX = re.compile(r".*\.(\d+)\.(.+)")
# said in words of their own, or of no interest where they are off
_SAID = {"objectives", "final_objectives", "temperature", "final_temperature", "layer_map", "layers", "student"}


def stage_facts(record: StageRecord) -> dict[str, str]:
    """What went in, how it was learned from, and what was removed; by name, in the order of reading."""
    inputs, arguments, details = record.inputs, record.arguments, record.details
    found = {
        "started from": _model(inputs.get("model"), inputs.get("model_revision")),
        "student": _model(arguments.get("student"), inputs.get("student_revision")),
        "teacher": _teachers(record),
        "tokenizer": inputs.get("tokenizer") and _code(inputs["tokenizer"]),
        "data": _data(inputs),
        **{f"fingerprint of {what}": inputs.get(name) and _code(inputs[name]) for name, what in _SPLITS.items()},
        "objectives": _weights(arguments.get("objectives"), arguments.get("final_objectives")),
        "temperature": _range(arguments.get("temperature"), arguments.get("final_temperature")),
        "teacher's answers": {True: "live, on each batch", False: "soft labels, computed once"}.get(
            arguments.get("live") if arguments.get("train", True) else None
        ),
        "layers taken from the teacher": _numbers(details.get("teacher_layers")),
        "layer map": _numbers(details.get("layer_map") or arguments.get("layer_map")),
        "LoRA": _named(arguments.get("lora")),
        "parameters": _from_to(details, "parameters", "{:,}"),
        "MB of weights": _from_to(details, "megabytes", "{:.1f}"),
        "vocabulary": _vocabulary(details.get("vocabulary"), "unlabelled" in inputs),
        "quantization": _named(details.get("quantization") or arguments.get("quantization")),
        "took": record.seconds is not None and f"{record.seconds:,.0f} seconds",
        "on": _hardware(record.hardware),
        "finished": record.finished,
    }
    return {name: str(value) for name, value in found.items() if value}


_SPLITS = {"train": "training data", "eval": "evaluation data", "unlabelled": "unlabelled data"}


def removal_tables(record: StageRecord) -> str:
    """A table of what was pruned of each layer, or of the zeros in each matrix; empty where nothing was."""
    return "\n\n".join(filter(None, [_units(record.details.get("removed")), _zeros(record.details.get("sparsity"))]))


def non_default_arguments(record: StageRecord) -> dict[str, str]:
    """The arguments that differ from the defaults, but for those that `stage_facts` says."""
    defaults = _defaults(record)
    return {
        name: str(value)
        for name, value in record.arguments.items()
        if name not in _SAID | {"live", "lora", "quantization", "teacher_weights"}
        and value not in (None, "", [], {})
        and _plain(value) != _plain(defaults.get(name))
    }


def _defaults(record: StageRecord) -> dict[str, Any]:
    """As a record writes them."""
    kind = FineTuningArguments if record.stage == "finetune" else DistillationTrainingArguments
    if record.stage == "pretrain":
        from ..stages.pretrain import PretrainingArguments as kind
    values = {field.name: field.default for field in fields(kind) if field.default is not MISSING}
    # training in bfloat16 is the default where the device has it
    precision = {"bf16": bool(record.hardware.get("bf16")) and record.arguments.get("fp16") != "True", "fp16": False}
    stage = {"max_length": 128, "mlm_probability": 0.15, "train": True}
    if record.stage == "prune":
        from ..stages.prune import PruningArguments

        stage |= {field.name: field.default for field in fields(PruningArguments)}
    return stage | training_arguments(SimpleNamespace(**values | precision))


def _plain(value: Any) -> str:
    """`SchedulerType.LINEAR`, as a record has it, is `linear`; tuples are lists there."""
    value = list(value) if isinstance(value, tuple) else value
    return re.sub(r"^[A-Z]\w*\.(?=[A-Z])", "", str(value)).casefold()


def _teachers(record: StageRecord) -> str | None:
    names, revisions = record.inputs.get("teacher"), record.inputs.get("teacher_revision")
    if not isinstance(names, list):
        same = names and (names, revisions) == (record.inputs.get("model"), record.inputs.get("model_revision"))
        return "itself, as it was" if same else _model(names, revisions)
    weights = record.arguments.get("teacher_weights") or [None] * len(names)
    rows = zip(names, revisions, weights, strict=True)
    return "; ".join(_model(name, made) + (f", weight {weight:.3g}" if weight else "") for name, made, weight in rows)


def _model(name: str | None, revision: str | None) -> str | None:
    """A model and its revision; of a Hub id with a link."""
    if not name:
        return None
    found = hub_id(name, revision)
    kinds = {"commit": "commit", "files": "hash of its files", "state": "hash of its weights"}
    kind, _, value = str(revision).partition("-")
    said = f", {kinds[kind]} {_code(value)}" if kind in kinds else ""
    return (f"[{found}](https://huggingface.co/{found})" if found else _code(name)) + said


def _data(inputs: dict[str, Any]) -> str | None:
    name = inputs.get("dataset") or inputs.get("task")
    if not name:
        return None
    config = f", {_code(inputs['task'])}" if inputs.get("dataset") and inputs.get("task") not in (None, name) else ""
    splits = inputs.get("splits")
    said = f", split {_code(splits['train'])}, evaluated on {_code(splits['eval'])}" if splits else ""
    linked = f"[{name}](https://huggingface.co/datasets/{name})" if "/" in name else _code(name)
    return linked + config + said


def _weights(first: dict[str, float] | None, last: dict[str, float] | None) -> str | None:
    def said(weights: dict[str, float]) -> str:
        return " + ".join(f"{weight:g} × {name}" for name, weight in weights.items())

    if not first:
        return None
    return said(first) + (f", at the end {said(last)}" if last else "")


def _range(first: str | None, last: str | None) -> str | None:
    return first and f"{float(first):g}" + (f", at the end {float(last):g}" if last else "")


def _numbers(value: Any) -> str | None:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _named(values: dict[str, Any] | None) -> str | None:
    if not isinstance(values, dict):
        return values
    off = (None, False, "", [])
    said = {name: value for name, value in values.items() if value not in off and not isinstance(value, dict)}
    return ", ".join(f"{readable_name(name)} {value}" for name, value in said.items())


def _from_to(details: dict[str, Any], name: str, pattern: str) -> str | None:
    ends = [details.get(end, {}).get(name) for end in ("from", "to")]
    return None if None in ends else " → ".join(pattern.format(value) for value in ends)


def _vocabulary(cut: dict[str, Any] | None, more: bool) -> str | None:
    texts = "training and unlabelled texts" if more else "training texts"
    return cut and (
        f"{cut['tokens_before']:,} → {cut['tokens_after']:,} tokens, those of the {texts} "
        "(the others are listed in `removed_tokens.txt`)"
    )


def _hardware(hardware: dict[str, Any]) -> str | None:
    if not hardware.get("cpu"):
        return None
    return hardware.get("accelerator") or f"{hardware['cpu']}, {hardware['threads']} of {hardware['cores']} cores"


def _units(gone: dict[str, Any] | None) -> str | None:
    """What went of each layer, counted; the layers are numbered as before."""
    if not gone:
        return None
    layers = sorted({*gone["heads"], *gone["neurons"]}, key=int)
    rows = [[layer, *(_count(gone[kind].get(layer, "")) for kind in ("heads", "neurons"))] for layer in layers]
    whole = [f"layers {gone['layers']}"] if gone["layers"] else []
    whole += [f"{_count(gone['hidden'])} of the hidden units"] if gone["hidden"] else []
    tables = [markdown_table(["removed from layer", "heads", "neurons"], rows)] if rows else []
    return "\n\n".join([*tables, *([f"Removed whole: {' and '.join(whole)}."] if whole else [])])


def _count(ranges: str) -> int:
    ends = [list(map(int, part.split("-"))) for part in ranges.split(",") if part]
    return sum(part[-1] - part[0] + 1 for part in ends)


def _zeros(sparsity: dict[str, Any] | None) -> str | None:
    """The share of zeros by layer and matrix."""
    if not sparsity:
        return None
    cells: dict[str, dict[str, float]] = {}
    for name, share in sparsity["layers"].items():
        found = _MATRIX.fullmatch(name)
        cells.setdefault(found[1] if found else name, {})[found[2] if found else "weight"] = share
    kinds = list(dict.fromkeys(kind for row in cells.values() for kind in row))
    rows = [[layer, *(f"{row[kind]:.1%}" if kind in row else "" for kind in kinds)] for layer, row in cells.items()]
    return (
        f"{sparsity['share']:.1%} of the weights in these matrices are zero, {sparsity['share_of_model']:.1%} of all "
        f"weights. Zeros make a compressed file smaller, and by themselves nothing faster.\n\n"
        f"{markdown_table(['zeros in layer', *kinds], rows)}"
    )


def _code(text: str) -> str:
    return f"`{text}`"
