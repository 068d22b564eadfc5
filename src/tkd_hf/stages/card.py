"""`tkd-hf card`: the card of a model (`README.md`), from its run's record and a report."""

import json
import logging
import shutil
from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..errors import InputError
from ..files import read_json, written_whole
from ..hub.card import Card
from ..hub.folder import CARD, EXPORTS, PICTURES, RESULTS
from ..hub.metadata import check_card
from ..hub.places import shortened, without_places
from .report import REPORT_JSON
from .run_folder import StageRecord, read_record


logger = logging.getLogger(__name__)


def card(
    folder: str | Path,
    report: str | Path | None = None,
    repo_id: str | None = None,
    license: str | None = None,
    language: str | None = None,
    base_model: str | None = None,
    record: StageRecord | None = None,
) -> str:
    """Writes the card of a model into its folder, or writes it anew: what people added to it stays.

    Args:
        folder: the run.
        report: folder of a report (`tkd-hf report`) on the model. What it says of the model and its teacher goes into
            the folder with its pictures (`report.json`, `pictures/`), and later cards find it there.
        repo_id: where the model will be on the Hub, for the examples of how to load it; by default the folder's name.
        license: of the model, such as `"apache-2.0"`.
        language: of the texts that it is for, such as `"en"`; several with commas between.
        base_model: Hub id of the model that it was made from, where the run began with a folder.
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
    languages = language and [code.strip() for code in language.split(",")]
    content = _card(folder, record, repo_id, base_model).render(
        existing,
        license=license,
        language=languages[0] if languages and len(languages) == 1 else languages,
    )
    check_card(content)
    with written_whole(folder / CARD) as file:
        file.write_text(content, encoding="utf-8")
    return content


def _card(folder: Path, record: StageRecord | None, repo_id: str | None, base_model: str | None) -> Card:
    """What the folder holds, without places on the machine."""
    name = folder.resolve().name
    adapter = folder / "adapter_config.json"
    exports = {
        export: sorted(file.relative_to(folder).as_posix() for ending in ("onnx", "xml") for file in files(ending))
        for export in EXPORTS
        for files in [lambda ending, export=export: (folder / export).glob(f"*model*.{ending}")]
    }
    results = folder / RESULTS
    return Card(
        name=repo_id.rpartition("/")[2] if repo_id else name,
        repo_id=repo_id or name,
        config=read_json(folder / "config.json", way_out="save the model anew"),
        record=record and without_places(record),
        results=read_json(results, way_out="give the report again") if results.exists() else None,
        pictures=sorted(f"{PICTURES}/{file.name}" for file in (folder / PICTURES).glob("*.png")),
        exports={export: files for export, files in exports.items() if files},
        parameters=_parameters(folder),
        adapter=read_json(adapter, way_out="save the adapter anew") if adapter.exists() else None,
        mask=_mask(folder),
        base_model=base_model,
    )


def results_of(report: dict[str, Any], folder: Path) -> dict[str, Any]:
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
    return shortened(kept)


def _take_over(report: Path, folder: Path, record: StageRecord | None) -> None:
    """Puts what a report says of the model into its folder."""
    path = report / REPORT_JSON
    if not path.exists():
        raise InputError(f"{report} holds no {REPORT_JSON}; name the folder of a report: tkd-hf report {folder}")
    found = read_json(path, way_out="make the report anew")
    if record and record.finished and found["finished"] < record.finished:
        raise InputError(
            f"the report in {report} ({found['finished']}) is older than the model in {folder} ({record.finished}); "
            f"make it anew: tkd-hf report {folder}"
        )
    results = results_of(found, folder)
    if report.resolve() != folder.resolve():
        with written_whole(folder / RESULTS) as file:
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
    found = read_json(path, way_out="save the tokenizer anew").get("mask_token") if path.exists() else None
    return found["content"] if isinstance(found, dict) else found
