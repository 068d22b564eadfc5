"""Soft labels: the teacher's logits, computed once and kept under the content that they belong to."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, List, Value
from huggingface_hub import constants, hf_hub_download
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .conversion import to_padding_free
from .data.features import TEACHER_LOGITS, iterate_rows, teacher_prefix
from .errors import InputError
from .evaluation.runners import PyTorchRunner
from .files import atomic_write
from .inference import predict_logits
from .labels import label_names, label_order
from .model_names import split_revision
from .teacher import normalize_weights


FORMAT = "tkd-hf soft labels 2"
READABLE = ("tkd-hf soft labels 1", FORMAT)  # the first knew no offsets
KEY_BYTES = 16
TOKENS = 2048  # at a time, of short texts: matrices of fewer rows multiply slowly


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
        logits: (examples, labels) `float32`; of a token classifier (tokens, labels), example after example.
        offsets: (examples + 1,) `int64`, of a token classifier: the rows of example i begin at `offsets[i]`. `None`
            where each example has one row.

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
    offsets: np.ndarray | None = None

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
            batch_size: examples at a time; of short ones more, up to 2,048 tokens.
            bf16: run in bfloat16; by default where the device computes in it natively.
        """
        keys, first = np.unique(content_keys(features), axis=0, return_index=True)
        answers = predict_logits(
            PyTorchRunner(to_padding_free(model), tokenizer, bf16=bf16),
            features.select(first),
            batch_size,
            "soft labels",
            TOKENS,
        )
        name = model.config.name_or_path or type(model).__name__
        return cls(name, revision or teacher_revision(model), label_names(model.config), keys, *_joined(answers))

    def missing(self, features: Dataset, place: int = 0) -> np.ndarray:
        """Indices of the rows that have no soft labels of this teacher, at `place` among several."""
        return np.flatnonzero(self._places(features, place) < 0)

    def attach(self, features: Dataset, student_labels: tuple[str, ...] | None = None) -> Dataset:
        """Adds the column `teacher_logits`, for examples or all their tokens, in the order of the student's labels.

        Args:
            features: tokenised rows; with a teacher of another tokenizer, its features under `teacher_`.
            student_labels: the student's label names; by default the teacher's.

        Raises:
            InputError: if rows have no soft labels, if those of tokens are not as many as a row's tokens, or if the
                label names differ.
        """
        return attach_mean(features, [self], student_labels=student_labels)

    def answers(
        self, features: Dataset, student_labels: tuple[str, ...] | None = None, place: int = 0
    ) -> list[np.ndarray]:
        """The logits of each row, (labels,) or (length, labels); arguments and errors as in `attach`.

        Args:
            place: of this teacher among several, from 0, each with features of its own.
        """
        places = self._places(features, place)
        if (places < 0).any():
            raise InputError(
                f"{(places < 0).sum()} of {len(features)} examples have no soft labels of {self.teacher} (revision "
                f"{self.revision}); run `tkd-hf label` with the same data, max_length and tokenizer"
            )
        order = slice(None)
        if student_labels:
            order = label_order(self.label_names, student_labels, "teacher", "student")
        every = self._by_example()
        answers = [every[place][..., order] for place in places]
        if self.offsets is not None:
            self._check_lengths(features, answers)
        return answers

    def merge(self, other: "SoftLabels") -> "SoftLabels":
        """These soft labels and those of `other` that are not among them."""
        if (other.revision, other.label_names) != (self.revision, self.label_names):
            raise InputError(f"soft labels of revision {other.revision} cannot join those of revision {self.revision}")
        keys, first = np.unique(np.concatenate([self.keys, other.keys]), axis=0, return_index=True)
        answers = [*self._by_example(), *other._by_example()]
        joined = _joined([answers[i] for i in first])
        return SoftLabels(self.teacher, self.revision, self.label_names, keys, *joined)

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file; it appears whole or not at all."""
        about = {
            "format": FORMAT,
            "teacher": self.teacher,
            "revision": self.revision,
            "label_names": json.dumps(self.label_names),
            "checksum": self._checksum(),
        }
        with atomic_write(path) as file:
            file.write_bytes(save(self._tensors(), metadata=about))

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
                if about.get("format") not in READABLE:
                    raise InputError(f"{path} holds {about.get('format', 'something else')!r}, not {FORMAT!r}; {again}")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                found = cls(
                    about["teacher"],
                    about["revision"],
                    tuple(json.loads(about["label_names"])),
                    tensors["keys"],
                    tensors["logits"],
                    tensors.get("offsets"),
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

    def _places(self, features: Dataset, teacher: int) -> np.ndarray:
        """For each row its place among the keys, or -1."""
        places = {key.tobytes(): place for place, key in enumerate(self.keys)}
        return np.array([places.get(key.tobytes(), -1) for key in content_keys(features, teacher)], dtype=np.int64)

    def _by_example(self) -> np.ndarray | list[np.ndarray]:
        """The logits by example: (labels,) each, or (length, labels)."""
        return self.logits if self.offsets is None else np.split(self.logits, self.offsets[1:-1])

    def _check_lengths(self, features: Dataset, answers: list[np.ndarray]):
        for place, ((ids,), answer) in enumerate(zip(iterate_rows(features, ["input_ids"]), answers, strict=True)):
            if len(ids) != len(answer):
                raise InputError(
                    f"row {place} has {len(ids)} tokens, but {len(answer)} soft labels of {self.teacher}; soft labels "
                    "of tokens need rows without padding, and a teacher with the student's tokenizer"
                )

    def _tensors(self) -> dict[str, np.ndarray]:
        tensors = {"keys": self.keys, "logits": self.logits}
        return tensors if self.offsets is None else tensors | {"offsets": self.offsets}

    def _checksum(self) -> str:
        digest = hashlib.sha256(b"".join(tensor.tobytes() for tensor in self._tensors().values()))
        digest.update(json.dumps([self.teacher, self.revision, self.label_names]).encode())
        return digest.hexdigest()


def _joined(answers: np.ndarray | list[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    """Answers by example as rows of one array, and where those of each begin if they have several."""
    if answers[0].ndim == 1:
        return np.asarray(answers), None
    return np.concatenate(answers), np.cumsum([0, *map(len, answers)])


def attach_mean(
    features: Dataset,
    caches: Sequence[SoftLabels],
    weights: Sequence[float] | None = None,
    student_labels: tuple[str, ...] | None = None,
) -> Dataset:
    """Adds the column `teacher_logits`: the weighted mean of several teachers' logits, as `TeacherEnsemble` takes it.

    Args:
        features: tokenised rows; with teachers of other tokenizers, their features under `teacher_`, `teacher2_` …
        caches: soft labels of each teacher, in order.
        weights: one for each; equal by default.
        student_labels: the student's label names; by default those of the first teacher.

    Raises:
        InputError: as in `SoftLabels.attach`, and for weights that do not fit.
    """
    names = student_labels or caches[0].label_names
    answers = [cache.answers(features, names, place) for place, cache in enumerate(caches)]
    shares = np.asarray(normalize_weights(weights, len(caches)), np.float32)
    mean = [
        sum(share * answer for share, answer in zip(shares, row, strict=True)) for row in zip(*answers, strict=True)
    ]
    if caches[0].offsets is None:
        return features.add_column(TEACHER_LOGITS, mean, feature=List(Value("float32")))
    return features.add_column(TEACHER_LOGITS, [[*row] for row in mean], feature=List(List(Value("float32"))))


def content_keys(features: Dataset, place: int = 0) -> np.ndarray:
    """Hashes of what the teacher reads of each row: token ids and, for pairs, segments, less padding.

    Args:
        features: rows with `input_ids`, or with `teacher_input_ids`, which win where they exist.
        place: of the teacher among several, from 0; the second's features are under `teacher2_`.

    Returns:
        (rows, 16) `uint8`.
    """
    prefix = teacher_prefix(place) if f"{teacher_prefix(place)}input_ids" in features.column_names else ""
    columns = _feature_columns(features, prefix)
    keys = np.empty((len(features), KEY_BYTES), np.uint8)
    for i, values in enumerate(iterate_rows(features, columns)):
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
        name, revision = split_revision(teacher)
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
