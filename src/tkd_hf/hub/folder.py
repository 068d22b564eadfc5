"""Choose the files of a run folder that are published, and check that others can load them."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..core.errors import InputError, first_line
from ..core.files import read_json
from ..quantization import BACKENDS
from ..records.redaction import redacted_record
from ..records.run_folder import RECORD_NAME, read_record
from .push import CARD
from .snapshot import refuse_links, refuse_secrets


RESULTS, PICTURES = "report.json", "pictures"
SOURCE_FILES = ("configuration_tkd.py", "layers_tkd.py", "modeling_tkd.py")

# A backend adds the files that it owns. All other files stay on this machine: files of disagreements contain other
# people's texts; checkpoints, the Trainer's state and the training arguments contain local paths.
_PUBLISHED = (
    *(CARD, RECORD_NAME, RESULTS, "removed_tokens.txt", "LICENSE", "LICENSE.txt", *SOURCE_FILES),
    *("config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json"),
    *("model-?????-of-?????.safetensors", "adapter_config.json", "adapter_model.safetensors"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model"),
    *(f"{PICTURES}/*.png", f"{PICTURES}/*.svg"),
)
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"}


def publishable_files(folder: str | Path, include: Sequence[str] = ()) -> list[Path]:
    """List the files of a run folder that a push uploads.

    Only files on an allow-list (`_PUBLISHED`, and `files` of the backends) are uploaded, so texts, logs and checkpoints
    stay on this machine.

    Args:
        folder: the run folder.
        include: backends whose exports to upload as well, such as `"onnx"`.

    Returns:
        Sorted paths within `folder`.

    Raises:
        InputError: if the folder or an export does not exist, if the folder contains a file that may be a pickle
            (loading one runs code), or if a file is a link.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name the run folder of a model")
    patterns = [*_PUBLISHED, *(pattern for backend in BACKENDS.values() for pattern in backend.files)]
    published = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    export_folders = _export_folders()
    for name in include:
        if name not in export_folders:
            raise InputError(f"unknown export {name!r}; choose from {', '.join(export_folders)}")
        export = folder / export_folders[name]
        files = {path for path in export.rglob("*") if path.is_file() and not path.name.startswith(".")}
        if not files:
            raise InputError(
                f"{folder} has no {export.name}/ to include; export the model first: tkd-hf quantize {folder}"
            )
        published |= files
    never_published = {folder / "training_args.bin"}  # the Trainer writes it next to every model
    candidates = {path for path in folder.iterdir() if path.is_file()} - never_published
    for path in sorted(published | candidates):
        if path.suffix in _PICKLES and not any(backend.owns(path) for backend in BACKENDS.values()):
            raise InputError(
                f"{path} may be a pickle, which runs code when it is loaded, and is not published; save the model as "
                "safetensors, and delete the file or move it out of the folder"
            )
    refuse_links(folder, sorted(path.relative_to(folder).as_posix() for path in published))
    return sorted(published)


def publishable_record(folder: str | Path) -> bytes:
    """Return the content of `tkd_run.json` as it is published: without local paths and tokens.

    Raises:
        InputError: if the folder has no record.
    """
    record = read_record(folder)
    if record is None:
        raise InputError(f"{folder} has no {RECORD_NAME}; name a run folder")
    return (json.dumps(asdict(redacted_record(record)), indent=2) + "\n").encode()


def check_folder(folder: str | Path, include: Sequence[str] = ()) -> None:
    """Check that the published files are enough to load the model on another machine.

    Args:
        folder: the run folder.
        include: backends whose exports to upload as well, such as `"onnx"`.

    Raises:
        InputError: as `publishable_files`; if a file is missing or damaged; if the configuration does not name the
            source file that defines the model (`auto_map`); or if a file contains a local path or a token.
    """
    folder, files = Path(folder), publishable_files(folder, include)
    names = {path.relative_to(folder).as_posix() for path in files}
    adapter_weights = ["adapter_model.safetensors"] if "adapter_config.json" in names else []
    _require(folder, names, "config.json", "tokenizer_config.json", *adapter_weights)
    has_pytorch_weights = any(path.suffix == ".safetensors" for path in files)
    exported = {file for backend in BACKENDS.values() for file in backend.exported_files(folder)}
    if not has_pytorch_weights and exported.isdisjoint(files):
        exports = [name for name, export in _export_folders().items() if (folder / export).is_dir()]
        hint = f"include {' or '.join(exports)}" if exports else "name the run folder of a model"
        raise InputError(f"{folder} contains no weights (model.safetensors); {hint}")
    for path in files:
        if path.suffix == ".safetensors":
            _check_readable(path)
    # the card has a check of its own, and the record is redacted before it is published
    refuse_secrets(path for path in files if path.name not in (CARD, RECORD_NAME))
    config = read_json(folder / "config.json", hint="save the model again")
    if config.get("model_type") == "tkd":
        required = ["AutoConfig", "AutoModel", *map(_auto_class, config.get("architectures") or [])]
        missing = [name for name in required if name not in config.get("auto_map", {})]
        if missing:
            raise InputError(
                f"{folder / 'config.json'} has no auto_map entry for {', '.join(missing)}, so trust_remote_code cannot "
                "load the model; save it again with save_pretrained, after `import tkd_hf`"
            )
        # an exported graph contains the layers; only the configuration is read from Python
        _require(folder, names, *(SOURCE_FILES if has_pytorch_weights else SOURCE_FILES[:1]))


def _export_folders() -> dict[str, str]:
    """Return the folders that are published on request only, by name of the backend."""
    return {name: folder for name, backend in sorted(BACKENDS.items()) if (folder := backend.folder)}


def _require(folder: Path, existing: set[str], *names: str) -> None:
    missing = [name for name in names if name not in existing]
    if missing:
        raise InputError(
            f"{folder} lacks {', '.join(missing)}; save the model and the tokenizer there again (save_pretrained)"
        )


def _auto_class(architecture: str) -> str:
    return f"AutoModelFor{architecture.partition('For')[2]}" if "For" in architecture else "AutoModel"


def _check_readable(path: Path) -> None:
    try:
        with safe_open(path, "pt") as weights:
            weights.keys()
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged ({first_line(error)}); save the model again") from None
