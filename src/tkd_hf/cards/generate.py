"""Write the card of a model (`README.md`) from its run record and a report (`tkd-hf card`)."""

import json
import shutil
from math import prod
from pathlib import Path
from typing import Any

from datasets import Dataset
from safetensors import safe_open
from transformers import PreTrainedModel, Trainer

from ..core.errors import InputError
from ..core.files import atomic_write, read_json
from ..core.options import accepts
from ..data.tokenization import to_tuple
from ..evaluation.results import REPORT_JSON, Report
from ..hub.folder import CARD, PICTURES, RESULTS
from ..hub.snapshot import refuse_links
from ..models.loading import commit_of
from ..models.signals import without_adapters
from ..quantization import BACKENDS
from ..records.inputs import fingerprint, teacher_revision, training_arguments
from ..records.redaction import redact, redacted_record
from ..records.run_folder import RECORD_NAME, StageRecord, read_record, write_record
from . import card_text, history
from .arguments import CardOptions
from .card import Card
from .markdown import key_value_table, template_environment
from .metadata import check_card, front_matter, merge_metadata, strip_peft_template
from .sections import merge_sections, user_text


# Files whose content goes into the card. A link could bring in a file that is not meant to be published.
CARD_SOURCES = (CARD, RECORD_NAME, RESULTS, "config.json", "adapter_config.json", "tokenizer_config.json")


@accepts(CardOptions)
def card(options: CardOptions) -> str:
    """Write the card of a model into its folder, or update the existing card.

    An update replaces the generated sections. Text and metadata that people added stay.

    Returns:
        The content of the card.

    Raises:
        InputError: if the folder contains no model, if the report does not include the model or is older than it, or if
            the existing card is damaged.

    Example:

    ```python
    from tkd_hf import card

    print(card("runs/student", license="apache-2.0", language="en"))
    ```
    """
    folder, language = Path(options.folder), options.language
    if not (folder / "config.json").exists():
        raise InputError(f"{folder} contains no model (config.json); name a run folder")
    refuse_links(folder, CARD_SOURCES)
    record = options.record or read_record(folder)
    if options.report is not None:
        _copy_results(Path(options.report), folder, record)
    existing = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).exists() else ""
    content = render_card(
        card_from_folder(folder, record, options.repo_id, options.base_model),
        existing,
        tags=to_tuple(options.tags or ()),
        license=options.license,
        language=list(language) if isinstance(language, (list, tuple)) else language,
    )
    check_card(content)
    with atomic_write(folder / CARD) as file:
        file.write_text(content, encoding="utf-8")
    return content


def render_card(card: Card, existing: str = "", **chosen: Any) -> str:
    """Return the card's content; text and metadata that people added to the existing card stay.

    Args:
        card: the facts of the card.
        existing: the content of the existing card.
        chosen: metadata to set, such as `license`; `None` keeps the existing value.
    """
    existing_metadata, page = strip_peft_template(existing)
    sections = card_sections(card)
    if user_text(page).startswith("# "):
        sections["title"] = ""  # the user's text starts with its own title
    metadata = merge_metadata(card.metadata(), existing_metadata, **chosen)
    return front_matter(metadata) + "\n" + merge_sections(page, sections)


def card_sections(card: Card) -> dict[str, str]:
    """Return the sections of the card by name; a section without data is empty."""
    template = template_environment().get_template("card.md.jinja")
    names = {"card": card, "card_text": card_text, "history": history, "key_value_table": key_value_table}
    context = template.new_context(names)
    return {name: "".join(block(context)).strip() for name, block in template.blocks.items()}


def write_trainer_card(trainer: Trainer, **options: Any) -> str:
    """Write the card of a trainer's model into its output folder, and the run record if there is none yet.

    Args:
        trainer: the trainer, during or after training. Its model's configuration is saved if the folder has none.
        options: arguments of `card`.

    Returns:
        The content of the card.
    """
    folder = Path(trainer.args.output_dir or ".")
    if not (folder / "config.json").exists():
        without_adapters(trainer.accelerator.unwrap_model(trainer.model)).config.save_pretrained(folder)
    record: StageRecord | None = getattr(trainer, "run_record", None)
    if record is None:
        record = record_from_trainer(trainer)
        write_record(folder, record)
    return card(folder, repo_id=trainer.hub_model_id or trainer.args.hub_model_id, record=record, **options)


def record_from_trainer(trainer: Trainer) -> StageRecord:
    """Return a run record with everything that a trainer knows: teachers, data, arguments, duration, last metrics."""
    teachers = getattr(trainer, "live_teachers", [])
    names = [model.config.name_or_path or type(model).__name__ for model in teachers]
    revisions = [_revision(model) for model in teachers]
    inputs: dict[str, Any] = {}
    arguments = training_arguments(trainer.args)
    if teachers:
        arguments = {"live": True, **arguments}
    if len(teachers) == 1:
        inputs |= {"teacher": names[0], "teacher_revision": revisions[0]}
    elif teachers:
        inputs |= {"teacher": names, "teacher_revision": revisions}
        arguments["teacher_weights"] = list(trainer.teacher.weights)  # type: ignore[attr-defined]  # has live_teachers
    datasets = {"train": trainer.train_dataset, "eval": trainer.eval_dataset}
    inputs |= {name: fingerprint(rows) for name, rows in datasets.items() if isinstance(rows, Dataset)}
    init_report = getattr(without_adapters(trainer.accelerator.unwrap_model(trainer.model)), "init_report", None)
    newest_first = trainer.state.log_history[::-1]
    evaluation = next((entry for entry in newest_first if any(name.startswith("eval_") for name in entry)), {})
    seconds = next((entry["train_runtime"] for entry in newest_first if "train_runtime" in entry), None)
    return StageRecord(
        "distill" if hasattr(trainer, "objective") else "finetune",
        inputs=inputs,
        arguments=arguments,
        metrics={
            name.removeprefix("eval_"): value
            for name, value in evaluation.items()
            if name.startswith("eval_") and not name.endswith(("runtime", "_per_second"))
        },
        details={"teacher_layers": list(init_report.layers)} if init_report else {},
        seconds=seconds and round(seconds, 1),
    )


def _revision(model: PreTrainedModel) -> str:
    commit, name = commit_of(model), model.config.name_or_path
    return f"commit-{commit}" if commit and name and not Path(name).exists() else teacher_revision(model)


def card_from_folder(
    folder: Path, record: StageRecord | None = None, repo_id: str | None = None, base_model: str | None = None
) -> Card:
    """Collect the content of a card from a run folder, without local paths; the arguments are those of `card`."""
    record = record or read_record(folder)
    name = folder.resolve().name
    exports = {
        name: [file.relative_to(folder).as_posix() for file in BACKENDS[name].exported_files(folder)]
        for name in sorted(BACKENDS)
    }
    adapter = _read_if_present(folder / "adapter_config.json", hint="save the adapter again")
    return Card(
        name=repo_id.rpartition("/")[2] if repo_id else name,
        repo_id=repo_id or name,
        config=read_json(folder / "config.json", hint="save the model again"),
        record=record and redacted_record(record),
        results=_read_if_present(folder / RESULTS, hint="copy the report again: tkd-hf card RUN --report REPORT"),
        pictures=sorted(f"{PICTURES}/{file.name}" for file in (folder / PICTURES).glob("*.png")),
        exports={backend: files for backend, files in exports.items() if files},
        pytorch=any(folder.glob("*.safetensors")),
        parameters=_parameter_count(folder),
        adapter=adapter,
        mask=_mask_token(folder),
        base_model=base_model or (_hub_base(adapter.get("base_model_name_or_path")) if adapter else None),
    )


def _read_if_present(path: Path, hint: str) -> Any:
    return read_json(path, hint=hint) if path.exists() else None


def _hub_base(name: str | None) -> str | None:
    """Return the Hub id of an adapter's base model; `None` if the name is a local folder."""
    return name if name and name.count("/") == 1 and not name.startswith(".") and not Path(name).exists() else None


def results_for_model(report: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the part of a report that concerns one model and its teacher, without local paths.

    Args:
        report: the content of `report.json`.
        folder: the model's run folder. It is found in the report by its path, otherwise by its name.

    Raises:
        InputError: if the report does not include the model, or includes several models of that name.
    """
    models = [model["name"] for model in report["evaluation"]["models"]]
    students = list(enumerate(models))[1:]  # the teacher comes first
    matches = [index for index, name in students if Path(name).resolve() == folder.resolve()]
    matches = matches or [index for index, name in students if Path(name).name == folder.resolve().name]
    if len(matches) != 1:
        raise InputError(
            f"the report is about {', '.join(models[1:])}, not about {folder}; create one: tkd-hf report {folder}"
        )
    [index] = matches
    results = {name: report[name] for name in ("names", "evaluation", "benchmark", "finished")}
    results["names"] = [results["names"][0], results["names"][index]]
    for part in ("evaluation", "benchmark"):
        pair = [report[part]["models"][0], report[part]["models"][index]]
        results[part] = {**report[part], "models": [{**model, "name": Path(model["name"]).name} for model in pair]}
    results["benchmark"]["reference"] = results["benchmark"]["models"][0]["name"]
    return redact(results)


def _copy_results(report: Path, folder: Path, record: StageRecord | None) -> None:
    """Copy the results and plots of a report into a model's folder."""
    path = report / REPORT_JSON
    if not path.exists():
        raise InputError(f"{report} contains no {REPORT_JSON}; name the folder of a report: tkd-hf report {folder}")
    content = _checked_report(path)
    if record and record.finished and content["finished"] < record.finished:
        raise InputError(
            f"the report in {report} ({content['finished']}) is older than the model in {folder} ({record.finished}); "
            f"create it again: tkd-hf report {folder}"
        )
    results = results_for_model(content, folder)
    if report.resolve() == folder.resolve():
        return
    with atomic_write(folder / RESULTS) as file:
        file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if (report / PICTURES).is_dir():
        (folder / PICTURES).mkdir(exist_ok=True)
        for picture in (report / PICTURES).glob("*.png"):
            shutil.copyfile(picture, folder / PICTURES / picture.name)


def _checked_report(path: Path) -> dict[str, Any]:
    """Return the content of a report's JSON file; an `InputError` names the field that is not as in a report."""
    content = read_json(path, hint="create the report again")
    try:
        Report.from_dict(content)
    except InputError as error:
        raise InputError(f"{path} is not a report of tkd-hf ({error}); create it again") from None
    return content


def _parameter_count(folder: Path) -> int | None:
    """Count the parameters in the weight files; `None` for adapters and for quantized weights, which are packed."""
    files = sorted(folder.glob("model*.safetensors"))
    if not files or "quantization_config" in (folder / "config.json").read_text(encoding="utf-8"):
        return None
    count = 0
    for file in files:
        with safe_open(file, "pt") as weights:
            count += sum(prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return count


def _mask_token(folder: Path) -> str | None:
    config = _read_if_present(folder / "tokenizer_config.json", hint="save the tokenizer again") or {}
    token = config.get("mask_token")
    return token["content"] if isinstance(token, dict) else token
