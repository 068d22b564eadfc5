"""What of a run folder is published, and whether it would load for anyone else."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..errors import InputError, first_line
from ..files import read_json
from ..stages.run_folder import RECORD_NAME, read_record
from .redaction import redacted_record


CARD, RESULTS, PICTURES = "README.md", "report.json", "pictures"
SOURCE_FILES = ("configuration_tkd.py", "layers_tkd.py", "modeling_tkd.py")
EXPORTS = ("onnx", "openvino")  # folders that go along when they are asked for

# Everything else stays at home: examples that were answered differently are somebody's texts, and a checkpoint, the
# Trainer's state and its arguments name places on the machine.
_PUBLISHED = (
    *(CARD, RECORD_NAME, RESULTS, "removed_tokens.txt", "LICENSE", "LICENSE.txt", *SOURCE_FILES),
    *("config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json"),
    *("model-?????-of-?????.safetensors", "adapter_config.json", "adapter_model.safetensors", "quanto_qmap.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model"),
    *("openvino_model.xml", "openvino_model.bin", "openvino_config.json", "model*.onnx", "model*.onnx_data"),
    *("ort_config.json", f"{PICTURES}/*.png", f"{PICTURES}/*.svg"),
)
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"}
_PATH = re.compile(r"(?:/|~/|\./|\.\./|[A-Za-z]:[\\/]).+")


def publishable_files(folder: str | Path, include: Sequence[str] = ()) -> list[Path]:
    """The files of a run folder that are pushed, and no others: see `_PUBLISHED`.

    Args:
        folder: the run.
        include: exports that go along: `"onnx"`, `"openvino"`.

    Returns:
        paths within `folder`, sorted.

    Raises:
        InputError: for a folder or an export that is not there, for pickles, which run code when they are loaded, and
            for links that lead out of the folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; name the run folder of a model")
    found = {path for pattern in _PUBLISHED for path in folder.glob(pattern) if path.is_file()}
    for name in include:
        if name not in EXPORTS:
            raise InputError(f"unknown export {name!r} to include; there are {', '.join(EXPORTS)}")
        files = {path for path in (folder / name).rglob("*") if path.is_file() and not path.name.startswith(".")}
        if not files:
            raise InputError(f"{folder} has no {name}/ to include; make it first: tkd-hf quantize {folder}")
        found |= files
    at_home = {folder / "training_args.bin"}  # the Trainer writes it beside every model
    candidates = {path for path in folder.iterdir() if path.is_file()} - at_home
    for path in sorted(found | candidates):
        if path.suffix in _PICKLES and not path.with_suffix(".xml").exists():  # OpenVINO's weights stand beside an .xml
            raise InputError(
                f"{path} may be a pickle, which runs code when it is loaded, and is not published; save the model as "
                "safetensors, and delete the file or move it out of the folder"
            )
    for path in found:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{path} is a link to {path.resolve()}, outside the folder; put the file itself there")
    return sorted(found)


def publishable_record(folder: str | Path) -> bytes:
    """The run's record (`tkd_run.json`) as it is to be published: without places on this machine, and tokens."""
    return (json.dumps(asdict(redacted_record(read_record(folder))), indent=2) + "\n").encode()


def check_folder(folder: str | Path, include: Sequence[str] = ()) -> None:
    """Whether what would be published loads in a process that has nothing else.

    Raises:
        InputError: as `publishable_files`; for a missing or damaged file, a configuration that does not name the code
            to load it with, and one that names a path on this machine.
    """
    folder, files = Path(folder), publishable_files(folder, include)
    names = {path.relative_to(folder).as_posix() for path in files}
    adapter = "adapter_config.json" in names
    _require(folder, names, "config.json", "tokenizer_config.json", *(["adapter_model.safetensors"] if adapter else []))
    if not any(Path(name).suffix in (".safetensors", ".onnx", ".xml") for name in names):
        exports = [name for name in EXPORTS if (folder / name).is_dir()]
        way_out = f"include {' or '.join(exports)}" if exports else "name the run folder of a model"
        raise InputError(f"{folder} holds no weights (model.safetensors); {way_out}")
    for path in files:
        if path.suffix == ".safetensors":
            _check_readable(path)
        elif path.suffix == ".json" and path.name.endswith("config.json"):
            _check_places(path)
    config = read_json(folder / "config.json", hint="save the model anew")
    if config.get("model_type") == "tkd":
        wanted = ["AutoConfig", "AutoModel", *map(_auto_class, config.get("architectures") or [])]
        missing = [name for name in wanted if name not in config.get("auto_map", {})]
        if missing:
            raise InputError(
                f"{folder / 'config.json'} has no auto_map for {', '.join(missing)}, which loading with "
                "trust_remote_code needs; save the model anew with save_pretrained, after `import tkd_hf`"
            )
        pytorch = any(Path(name).suffix == ".safetensors" for name in names)
        _require(folder, names, *(SOURCE_FILES if pytorch else SOURCE_FILES[:1]))  # other runtimes read the first alone


def _require(folder: Path, there: set[str], *names: str) -> None:
    missing = [name for name in names if name not in there]
    if missing:
        raise InputError(f"{folder} lacks {', '.join(missing)}; save model and tokenizer there anew (save_pretrained)")


def _auto_class(architecture: str) -> str:
    return f"AutoModelFor{architecture.partition('For')[2]}" if "For" in architecture else "AutoModel"


def _check_readable(path: Path) -> None:
    try:
        with safe_open(path, "pt") as weights:
            weights.keys()
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged ({first_line(error)}); save the model anew") from None


def _check_places(path: Path) -> None:
    """A configuration that names a folder of this machine loads nowhere else."""
    for name, value in read_json(path, hint="save the model anew").items():
        base = name == "base_model_name_or_path" and Path(str(value)).exists()
        if isinstance(value, str) and (base or _PATH.fullmatch(value)):
            raise InputError(
                f"{path} has {name}={value!r}, a place on this machine, where nobody else finds it; push that model "
                f"first and set {name} to its Hub id" + (", or merge the two" if base else "")
            )
