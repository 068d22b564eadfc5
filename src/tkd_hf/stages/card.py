"""`tkd-hf card`: the card of a model (`README.md`), from its run's record and a report."""

import json
import shutil
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from safetensors import safe_open
from transformers import PreTrainedModel

from ..data.features import to_tuple
from ..errors import InputError
from ..evaluation.runners import EXPORT_FILES
from ..files import atomic_write, read_json
from ..hub.card import Card
from ..hub.folder import CARD, PICTURES, RESULTS
from ..hub.metadata import check_card
from ..hub.redaction import redact, redacted_record
from ..signals import without_adapters
from ..soft_labels import teacher_revision
from .report import REPORT_JSON
from .run_folder import StageRecord, fingerprint, read_record, write_record
from .training import training_arguments


if TYPE_CHECKING:
    from ..sampling import BaseTrainer


def card(
    folder: str | Path,
    report: str | Path | None = None,
    repo_id: str | None = None,
    license: str | None = None,
    language: str | Sequence[str] | None = None,
    base_model: str | None = None,
    tags: str | Sequence[str] | None = None,
    record: StageRecord | None = None,
) -> str:
    """Writes the card of a model into its folder, or writes it anew: what people added to it stays.

    Args:
        folder: the run.
        report: folder of a report (`tkd-hf report`) on the model. What it says of the model and its teacher goes into
            the folder with its pictures (`report.json`, `pictures/`), and later cards find it there.
        repo_id: where the model will be on the Hub, for the examples of how to load it; by default the folder's name.
        license: of the model, such as `"apache-2.0"`.
        language: of the texts that it is for, such as `"en"`; or several.
        base_model: Hub id of the model that it was made from, where the run began with a folder.
        tags: to be added to those that follow from the run.
        record: of the run, where it is not in the folder yet.

    Returns:
        the card.

    Raises:
        InputError: if the folder holds no model, the report is not of this model, or an earlier one, or the card that
            is there is damaged.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise InputError(f"{folder} holds no model (config.json); name the folder of a run")
    record = record or read_record(folder)
    if report is not None:
        _take_over(Path(report), folder, record)
    existing = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).exists() else ""
    content = card_from_folder(folder, record, repo_id, base_model).render(
        existing,
        tags=to_tuple(tags or ()),
        license=license,
        language=list(language) if isinstance(language, (list, tuple)) else language,
    )
    check_card(content)
    with atomic_write(folder / CARD) as file:
        file.write_text(content, encoding="utf-8")
    return content


def write_trainer_card(trainer: "BaseTrainer", **chosen: Any) -> str:
    """The card of what a trainer has trained, or is training, in its output folder, and the record that it is from.

    Args:
        trainer: its model's configuration is saved, if need be.
        chosen: as of `card`.
    """
    folder = Path(trainer.args.output_dir)
    if not (folder / "config.json").exists():
        without_adapters(trainer.accelerator.unwrap_model(trainer.model)).config.save_pretrained(folder)
    record = trainer.run_record
    if record is None:
        record = record_from_trainer(trainer)
        write_record(folder, record)
    return card(folder, repo_id=trainer.hub_model_id or trainer.args.hub_model_id, record=record, **chosen)


def record_from_trainer(trainer: "BaseTrainer") -> StageRecord:
    """What a trainer knows of its run: teachers, data, arguments, time, and how the last evaluation went."""
    models = getattr(trainer, "live_teachers", [])
    names = [model.config.name_or_path or type(model).__name__ for model in models]
    made = [_revision(model) for model in models]
    several = {"teacher_weights": list(trainer.teacher.weights)} if len(models) > 1 else {}
    taught = {"teacher": names, "teacher_revision": made} if several else {}
    if len(models) == 1:
        taught = {"teacher": names[0], "teacher_revision": made[0]}
    data = {"train": trainer.train_dataset, "eval": trainer.eval_dataset}
    report = getattr(without_adapters(trainer.accelerator.unwrap_model(trainer.model)), "init_report", None)
    evaluated = [entry for entry in trainer.state.log_history if any(name.startswith("eval_") for name in entry)]
    last = evaluated[-1] if evaluated else {}
    seconds = next(
        (one["train_runtime"] for one in reversed(trainer.state.log_history) if "train_runtime" in one), None
    )
    return StageRecord(
        "distill" if hasattr(trainer, "objective") else "finetune",
        inputs=taught | {name: fingerprint(rows) for name, rows in data.items() if isinstance(rows, Dataset)},
        arguments={**({"live": True} if models else {}), **training_arguments(trainer.args), **several},
        metrics={
            name.removeprefix("eval_"): value
            for name, value in last.items()
            if name.startswith("eval_") and not name.endswith(("runtime", "_per_second"))
        },
        details={"teacher_layers": list(report.layers)} if report else {},
        seconds=seconds and round(seconds, 1),
    )


def _revision(model: PreTrainedModel) -> str:
    commit = getattr(model.config, "_commit_hash", None)
    return f"commit-{commit}" if commit and not Path(model.config.name_or_path).exists() else teacher_revision(model)


def card_from_folder(
    folder: Path, record: StageRecord | None = None, repo_id: str | None = None, base_model: str | None = None
) -> Card:
    """What the folder of a run holds, without places on the machine; the arguments are those of `card`."""
    record = record or read_record(folder)
    name = folder.resolve().name
    adapter = folder / "adapter_config.json"
    found = {"onnx": ("model*.onnx", "onnx/*.onnx"), "openvino": ("openvino_model.xml", "openvino/*_model.xml")}
    exports = {
        backend: [file.relative_to(folder).as_posix() for pattern in patterns for file in sorted(folder.glob(pattern))]
        for backend, patterns in found.items()
    }
    for files in exports.values():  # the one that runs, and was measured, is the one to show
        files.sort(key=lambda name: EXPORT_FILES.index(name) if name in EXPORT_FILES else len(EXPORT_FILES))
    results = folder / RESULTS
    adapted = read_json(adapter, hint="save the adapter anew") if adapter.exists() else None
    return Card(
        name=repo_id.rpartition("/")[2] if repo_id else name,
        repo_id=repo_id or name,
        config=read_json(folder / "config.json", hint="save the model anew"),
        record=record and redacted_record(record),
        results=read_json(results, hint="give the report again") if results.exists() else None,
        pictures=sorted(f"{PICTURES}/{file.name}" for file in (folder / PICTURES).glob("*.png")),
        exports={backend: files for backend, files in exports.items() if files},
        pytorch=any(folder.glob("*.safetensors")),
        parameters=_parameters(folder),
        adapter=adapted,
        mask=_mask(folder),
        base_model=base_model or (_on_the_hub(adapted.get("base_model_name_or_path")) if adapted else None),
    )


def _on_the_hub(name: str | None) -> str | None:
    """The name that an adapter gives its base, unless it is a folder here."""
    return name if name and name.count("/") == 1 and not name.startswith(".") and not Path(name).exists() else None


def results_for_model(report: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The part of a report that is about a model and its teacher, without places on the machine.

    Raises:
        InputError: if the report is not of the model.
    """
    models = [model["name"] for model in report["evaluation"]["models"]]
    found = [place for place, name in enumerate(models) if place and Path(name).resolve() == folder.resolve()]
    found = found or [place for place, name in enumerate(models) if place and Path(name).name == folder.resolve().name]
    if len(found) != 1:
        raise InputError(
            f"the report is of {', '.join(models[1:])}, not of {folder}; make one of it: tkd-hf report {folder}"
        )
    place = found[0]
    kept = {name: report[name] for name in ("names", "evaluation", "benchmark", "finished")}
    kept["names"] = [kept["names"][0], kept["names"][place]]
    for part in ("evaluation", "benchmark"):
        both = [report[part]["models"][0], report[part]["models"][place]]
        kept[part] = {**report[part], "models": [{**model, "name": Path(model["name"]).name} for model in both]}
    kept["benchmark"]["reference"] = kept["benchmark"]["models"][0]["name"]
    return redact(kept)


def _take_over(report: Path, folder: Path, record: StageRecord | None) -> None:
    """Puts what a report says of the model into its folder."""
    path = report / REPORT_JSON
    if not path.exists():
        raise InputError(f"{report} holds no {REPORT_JSON}; name the folder of a report: tkd-hf report {folder}")
    found = read_json(path, hint="make the report anew")
    if record and record.finished and found["finished"] < record.finished:
        raise InputError(
            f"the report in {report} ({found['finished']}) is older than the model in {folder} ({record.finished}); "
            f"make it anew: tkd-hf report {folder}"
        )
    results = results_for_model(found, folder)
    if report.resolve() != folder.resolve():
        with atomic_write(folder / RESULTS) as file:
            file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        if (report / PICTURES).is_dir():
            (folder / PICTURES).mkdir(exist_ok=True)
            for picture in (report / PICTURES).glob("*.png"):
                shutil.copyfile(picture, folder / PICTURES / picture.name)


def _parameters(folder: Path) -> int | None:
    """The weights' number, where each is an element of a tensor: not of adapters, nor packed ones."""
    files = sorted(folder.glob("model*.safetensors"))
    if not files or "quantization_config" in (folder / "config.json").read_text(encoding="utf-8"):
        return None
    count = 0
    for file in files:
        with safe_open(file, "pt") as weights:
            count += sum(prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return count


def _mask(folder: Path) -> str | None:
    path = folder / "tokenizer_config.json"
    found = read_json(path, hint="save the tokenizer anew").get("mask_token") if path.exists() else None
    return found["content"] if isinstance(found, dict) else found
