"""Soft labels: the teacher's logits, computed once and kept under the content that they belong to."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, List, Value
from huggingface_hub import constants, hf_hub_download
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .data.features import TEACHER_LOGITS, TEACHER_PREFIX
from .errors import InputError
from .inference import predict_logits
from .labels import label_names, label_order
from .naming import at_revision


FORMAT = "tkd-hf soft labels 1"
KEY_BYTES = 16


@dataclass
class SoftLabels:
    """A teacher's logits, keyed by what it read: the token ids of each example, without padding.

    Since the key is the content, shuffling, sharding, accumulation and resuming cannot misalign them, and a training
    set that changed in part keeps the soft labels of the rest.

    Args:
        teacher: name of the teacher, for people.
        revision: hash of the teacher's weights and configuration, or its commit on the Hub; see `teacher_revision`.
        label_names: the teacher's, in the order of its logits; empty for regression.
        keys: (examples, 16) `uint8`, hashes of the tokenised examples.
        logits: (examples, labels) `float32`.

    Example:

    ```python
    >>> import numpy as np
    >>> from datasets import Dataset
    >>> from tkd_hf.soft_labels import SoftLabels, content_keys
    >>> data = Dataset.from_dict({"input_ids": [[5, 6], [7]]})
    >>> labels = SoftLabels("t", "r", ("no", "yes"), content_keys(data), np.array([[1, 0], [0, 2]], np.float32))
    >>> labels.attach(data, ("yes", "no"))["teacher_logits"][:]
    [[0.0, 1.0], [2.0, 0.0]]

    ```
    """

    teacher: str
    revision: str
    label_names: tuple[str, ...]
    keys: np.ndarray
    logits: np.ndarray

    @classmethod
    def compute(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        features: Dataset,
        revision: str | None = None,
        batch_size: int = 128,
        bf16: bool | None = None,
    ) -> "SoftLabels":
        """Runs the teacher once over tokenised examples; equal ones are run once.

        Args:
            model, tokenizer: the teacher and its tokenizer.
            features: rows with the teacher's features.
            revision: of the teacher; by default a hash of the weights in memory.
            batch_size, bf16: as in `tkd_hf.inference.predict_logits`.
        """
        keys, first = np.unique(content_keys(features), axis=0, return_index=True)
        logits = predict_logits(model, tokenizer, features.select(first), batch_size, bf16, "soft labels")
        name = model.config.name_or_path or type(model).__name__
        return cls(name, revision or teacher_revision(model), label_names(model.config), keys, logits)

    def missing(self, features: Dataset) -> np.ndarray:
        """Indices of the rows that have no soft labels."""
        return np.flatnonzero(self._places(features) < 0)

    def attach(self, features: Dataset, student_labels: tuple[str, ...] | None = None) -> Dataset:
        """Adds the column `teacher_logits`, with the columns in the order of the student's labels.

        Args:
            features: tokenised rows; with a teacher of another tokenizer, its features under `teacher_`.
            student_labels: the student's label names; by default the teacher's.

        Raises:
            InputError: if rows have no soft labels, or if the label names differ.
        """
        places = self._places(features)
        if (places < 0).any():
            raise InputError(
                f"{(places < 0).sum()} of {len(features)} examples have no soft labels of {self.teacher} (revision "
                f"{self.revision}); run `tkd-hf label` with the same data, max_length and tokenizer"
            )
        logits = self.logits[places]
        if student_labels:
            logits = logits[:, label_order(self.label_names, student_labels, "teacher", "student")]
        return features.add_column(TEACHER_LOGITS, list(logits), feature=List(Value("float32")))

    def merge(self, other: "SoftLabels") -> "SoftLabels":
        """These soft labels and those of `other` that are not among them."""
        if (other.revision, other.label_names) != (self.revision, self.label_names):
            raise InputError(f"soft labels of revision {other.revision} cannot join those of revision {self.revision}")
        keys, first = np.unique(np.concatenate([self.keys, other.keys]), axis=0, return_index=True)
        logits = np.concatenate([self.logits, other.logits])[first]
        return SoftLabels(self.teacher, self.revision, self.label_names, keys, logits)

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file; it appears whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {
            "format": FORMAT,
            "teacher": self.teacher,
            "revision": self.revision,
            "label_names": json.dumps(self.label_names),
            "checksum": self._checksum(),
        }
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(save({"keys": self.keys, "logits": self.logits}, metadata=about))
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | Path, revision: str | None = None) -> "SoftLabels":
        """Reads soft labels back.

        Args:
            path: the file.
            revision: the teacher's revision that they must belong to; by default any.

        Raises:
            InputError: naming the file, if it is missing, damaged, something else, or of another teacher.
        """
        again = "delete it and run `tkd-hf label` again"
        try:
            with safe_open(str(path), framework="np") as file:
                about = file.metadata() or {}
                if about.get("format") != FORMAT:
                    raise InputError(f"{path} holds {about.get('format', 'something else')!r}, not {FORMAT!r}; {again}")
                found = cls(
                    about["teacher"],
                    about["revision"],
                    tuple(json.loads(about["label_names"])),
                    file.get_tensor("keys"),
                    file.get_tensor("logits"),
                )
        except FileNotFoundError:
            raise InputError(f"no soft labels at {path}; run `tkd-hf label` first") from None
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise InputError(f"the soft labels in {path} are damaged ({error}); {again}") from None
        if found._checksum() != about.get("checksum"):
            raise InputError(f"the soft labels in {path} are damaged (the checksum does not match); {again}")
        if revision is not None and found.revision != revision:
            raise InputError(
                f"the soft labels in {path} are of revision {found.revision} of {found.teacher}, but the teacher is of "
                f"revision {revision}; run `tkd-hf label` with this teacher"
            )
        return found

    def _places(self, features: Dataset) -> np.ndarray:
        """For each row its place among the keys, or -1."""
        places = {key.tobytes(): place for place, key in enumerate(self.keys)}
        return np.array([places.get(key.tobytes(), -1) for key in content_keys(features)], dtype=np.int64)

    def _checksum(self) -> str:
        digest = hashlib.sha256(self.keys.tobytes() + self.logits.tobytes())
        digest.update(json.dumps([self.teacher, self.revision, self.label_names]).encode())
        return digest.hexdigest()


def content_keys(features: Dataset) -> np.ndarray:
    """Hashes of what the teacher reads of each row: token ids and, for pairs, segments, less padding.

    Args:
        features: rows with `input_ids`, or with `teacher_input_ids`, which win where they exist.

    Returns:
        (rows, 16) `uint8`.
    """
    prefix = TEACHER_PREFIX if f"{TEACHER_PREFIX}input_ids" in features.column_names else ""
    columns = _feature_columns(features, prefix)
    keys = np.empty((len(features), KEY_BYTES), np.uint8)
    rows = zip(*(features[column] for column in columns), strict=True)
    for i, values in enumerate(rows):
        row = dict(zip(columns, values, strict=True))
        kept = np.asarray(row.pop(f"{prefix}attention_mask", None) or [1] * len(values[0]), bool)
        content = [np.asarray(value, np.int32)[kept] for value in row.values()]
        # segments that are all 0 say nothing, and not every tokenizer writes them
        content = [value for place, value in enumerate(content) if place == 0 or value.any()]
        digest = hashlib.blake2b(digest_size=KEY_BYTES)
        for value in content:
            digest.update(len(value).to_bytes(4, "little") + value.tobytes())
        keys[i] = np.frombuffer(digest.digest(), np.uint8)
    return keys


def _feature_columns(features: Dataset, prefix: str) -> list[str]:
    names = [f"{prefix}{name}" for name in ("input_ids", "token_type_ids", "attention_mask")]
    if names[0] not in features.column_names:
        raise InputError(f"no column {names[0]!r} in the data; tokenise it first (there are {features.column_names})")
    return [name for name in names if name in features.column_names]


def teacher_revision(teacher: str | PreTrainedModel) -> str:
    """What identifies a teacher's answers: the commit of a Hub model, or a hash of weights and configuration.

    Args:
        teacher: Hub id (`org/model@revision` pins one), folder, or a model in memory. A folder is hashed by its files,
            without loading the model.
    """
    digest = hashlib.sha256()
    if isinstance(teacher, PreTrainedModel):
        for name, tensor in sorted(teacher.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        digest.update(json.dumps(label_names(teacher.config)).encode())
        return f"state-{digest.hexdigest()[:16]}"
    folder = Path(teacher)
    if not folder.is_dir():
        name, revision = at_revision(teacher)
        return f"commit-{Path(hf_hub_download(name, 'config.json', revision=revision)).parent.name}"
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
    for path in [folder / "config.json", *(path for path in weights if path.name != "training_args.bin")]:
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return f"files-{digest.hexdigest()[:16]}"


def default_path(revision: str) -> Path:
    """Where the commands keep the soft labels of a teacher: one file a revision, in the Hugging Face cache."""
    return Path(constants.HF_HOME) / "tkd-hf" / "soft-labels" / f"{revision}.safetensors"
