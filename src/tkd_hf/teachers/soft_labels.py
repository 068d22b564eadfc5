"""Soft labels: the logits of a teacher, computed once and stored under the content that they belong to."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, List, Value
from huggingface_hub import constants
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..core.errors import InputError, first_line, storage_error_message
from ..core.files import atomic_write, file_state, locked
from ..core.names import label_names, label_order
from ..data.tokenization import TEACHER_LOGITS, iterate_rows, teacher_prefix
from ..inference.prediction import predict_logits
from ..inference.runners import PyTorchRunner
from ..models.conversion import to_padding_free
from ..records.inputs import teacher_revision
from .teacher import normalize_weights


FORMAT = "tkd-hf soft labels 2"
READABLE_FORMATS = ("tkd-hf soft labels 1", FORMAT)  # format 1 has no offsets
KEY_BYTES = 16
LOCK_SECONDS = 600  # for one write, of which several processes may wait for each other
TOKENS_PER_BATCH = 2048  # for short texts; smaller matrices use the processor badly


@dataclass
class SoftLabels:
    """The stored logits of a teacher, keyed by the content of each example: its token ids without padding.

    Use soft labels if the student learns from logits only: the teacher runs once over the data, and not in every epoch.
    Because the key is the content, shuffling, sharding and resuming cannot assign them to the wrong example. If a part
    of the training set changes, the soft labels of the other examples stay valid. They belong to one teacher and one
    tokenisation: after a change of `max_length` or of the tokenizer, `attach` reports the examples that have none.

    Args:
        teacher: name of the teacher, for messages only.
        revision: identifies the teacher's weights; see `teacher_revision`.
        label_names: the teacher's label names in the order of its logits; empty for regression.
        keys: (examples, 16) `uint8`, hashes of the tokenised examples; see `content_keys`.
        logits: (examples, labels) `float32`; for a token classifier (tokens, labels), one example after the other.
        offsets: (examples + 1,) `int64`, for a token classifier: the rows of example i are
            `logits[offsets[i] : offsets[i + 1]]`. `None` if every example has one row.

    Example:

    ```python
    >>> import numpy as np
    >>> from datasets import Dataset
    >>> from tkd_hf.teachers.soft_labels import SoftLabels, content_keys
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
        """Run the teacher over tokenised examples; equal examples are computed once.

        Args:
            model: the teacher, a classifier of texts or of tokens.
            tokenizer: its tokenizer, which pads the batches.
            features: rows with the teacher's features, without padding.
            revision: identifies the teacher (a hash of the weights in memory).
            batch_size: examples per batch; batches of short examples are larger, up to 2,048 tokens.
            bf16: run in bfloat16 (if the device computes in it natively). It changes the logits slightly.

        Returns:
            soft labels of all distinct examples.

        Raises:
            InputError: if the data is not tokenised, or if the teacher gives a logit that is not finite.
        """
        keys, first = np.unique(content_keys(features), axis=0, return_index=True)
        logits = predict_logits(
            PyTorchRunner(to_padding_free(model), tokenizer, bf16=bf16),
            features.select(first),
            batch_size,
            "soft labels",
            TOKENS_PER_BATCH,
        )
        name = model.config.name_or_path or type(model).__name__
        revision = revision or teacher_revision(model)
        return cls(name, revision, label_names(model.config), keys, *_stack_examples(logits))

    def missing(self, features: Dataset, teacher_index: int = 0) -> np.ndarray:
        """Return the indices of the rows that have no soft labels.

        Args:
            features: tokenised rows.
            teacher_index: position of this teacher among several, from 0; it decides which columns are its features.
        """
        return np.flatnonzero(self._key_indices(features, teacher_index) < 0)

    def attach(self, features: Dataset, student_labels: tuple[str, ...] | None = None) -> Dataset:
        """Add the column `teacher_logits`, with the labels in the student's order.

        A `DistillationTrainer` reads this column and then needs no teacher model for `logits` and `hard`.

        Args:
            features: tokenised rows; if the teacher has another tokenizer, with its features under `teacher_`.
            student_labels: the student's label names in the order of its logits (the teacher's).

        Returns:
            the rows with one more column, (labels,) per example or (length, labels) per token.

        Raises:
            InputError: if rows have no soft labels, if a row has another number of tokens than its soft labels, or if
                the two sets of label names differ.
        """
        return attach_mean(features, [self], student_labels=student_labels)

    def logits_for(
        self, features: Dataset, student_labels: tuple[str, ...] | None = None, teacher_index: int = 0
    ) -> list[np.ndarray]:
        """Return the logits of each row, (labels,) or (length, labels). Arguments and errors are those of `attach`.

        Args:
            features: tokenised rows.
            student_labels: the student's label names in the order of its logits (the teacher's).
            teacher_index: position of this teacher among several, from 0; it decides which columns are its features.
        """
        indices = self._key_indices(features, teacher_index)
        if (indices < 0).any():
            raise InputError(
                f"{(indices < 0).sum()} of {len(features)} examples have no soft labels of {self.teacher} (revision "
                f"{self.revision}); run `tkd-hf label` with the same data, max_length and tokenizer"
            )
        examples = self._by_example()
        logits = [examples[index] for index in indices]
        if student_labels:
            order = label_order(self.label_names, student_labels, "teacher", "student")
            logits = [example[..., order] for example in logits]
        if self.offsets is not None:
            self._check_lengths(features, logits)
        return logits

    def merge(self, additions: "SoftLabels") -> "SoftLabels":
        """Return these soft labels together with `additions`; examples that both have keep their present logits.

        Raises:
            InputError: if the two belong to different revisions of a teacher, or to different label names.
        """
        if (additions.revision, additions.label_names) != (self.revision, self.label_names):
            raise InputError(
                f"cannot join soft labels of revision {additions.revision} with those of revision {self.revision}"
            )
        keys, first = np.unique(np.concatenate([self.keys, additions.keys]), axis=0, return_index=True)
        examples = [*self._by_example(), *additions._by_example()]
        merged = _stack_examples([examples[index] for index in first])
        return SoftLabels(self.teacher, self.revision, self.label_names, keys, *merged)

    def merge_into(self, path: str | Path, replacing: tuple[int, ...] | None = None) -> "SoftLabels":
        """Add these soft labels to a file that other processes may write as well, and return all that it holds then.

        Args:
            path: the file; a link stays one.
            replacing: the state (`file_state`) of a file whose content is not wanted. If the file has changed since,
                another process has written it, and its soft labels stay.

        Raises:
            InputError: if the file is damaged or belongs to another teacher; it stays as it is.
        """
        path = Path(path).resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        message = f"another process holds the lock of {path}; wait until it has ended"
        with locked(path.with_name(f".{path.name}.lock"), LOCK_SECONDS, message):
            unwanted = replacing is not None and file_state(path) == replacing
            merged = self if unwanted or not path.exists() else SoftLabels.load(path, self.revision).merge(self)
            merged.save(path)
        return merged

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, with a checksum. An interrupted write leaves no partial file.

        The file is replaced. Use `merge_into` if other processes may write it at the same time.
        """
        metadata = {
            "format": FORMAT,
            "teacher": self.teacher,
            "revision": self.revision,
            "label_names": json.dumps(self.label_names),
            "checksum": self._checksum(),
        }
        with atomic_write(path) as file:
            file.write_bytes(save(self._tensors(), metadata=metadata))

    @classmethod
    def load(cls, path: str | Path, revision: str | None = None) -> "SoftLabels":
        """Read soft labels from a file.

        Args:
            path: the file.
            revision: the teacher's revision that they must belong to (any).

        Raises:
            InputError: if the file is missing, damaged, not a file of soft labels, or of another revision.
        """
        hint = "delete it and run `tkd-hf label` again"
        try:
            with safe_open(str(path), framework="np") as file:
                metadata = file.metadata() or {}
                file_format = metadata.get("format")
                if file_format not in READABLE_FORMATS:
                    raise InputError(f"{path} has the format {file_format!r}, not {FORMAT!r}; {hint}")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                soft_labels = cls(
                    metadata["teacher"],
                    metadata["revision"],
                    tuple(json.loads(metadata["label_names"])),
                    tensors["keys"],
                    tensors["logits"],
                    tensors.get("offsets"),
                )
            soft_labels._check(metadata.get("checksum"))
        except FileNotFoundError:
            raise InputError(f"no soft labels at {path}; run `tkd-hf label` first") from None
        except InputError:
            raise
        except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
            if storage_error_message(error):
                raise
            raise InputError(f"the soft labels in {path} are damaged ({first_line(error)}); {hint}") from None
        if revision is not None and soft_labels.revision != revision:
            raise InputError(
                f"the soft labels in {path} are of revision {soft_labels.revision} of {soft_labels.teacher}, but the "
                f"teacher is of revision {revision}; run `tkd-hf label` with this teacher"
            )
        return soft_labels

    def _check(self, checksum: str | None) -> None:
        """Raise a `ValueError` for another checksum, arrays that do not fit together, or a logit that is not finite."""
        if self._checksum() != checksum:
            raise ValueError("the checksum does not match")
        keys, logits, offsets = self.keys, self.logits, self.offsets
        if keys.dtype != np.uint8 or keys.ndim != 2 or keys.shape[1] != KEY_BYTES:
            raise ValueError(f"keys of the type {keys.dtype} and the shape {keys.shape}")
        labels = len(self.label_names)
        if logits.dtype != np.float32 or logits.ndim != 2 or (labels and logits.shape[1] != labels):
            raise ValueError(f"logits of the type {logits.dtype} and the shape {logits.shape} for {labels} labels")
        if not all(isinstance(name, str) for name in self.label_names):
            raise ValueError(f"label names {self.label_names!r}")
        if offsets is None:
            rows = len(logits)
        elif offsets.dtype != np.int64 or offsets.ndim != 1 or not len(offsets):
            raise ValueError(f"offsets of the type {offsets.dtype} and the shape {offsets.shape}")
        elif offsets[0] != 0 or offsets[-1] != len(logits) or (np.diff(offsets) < 0).any():
            raise ValueError("the offsets do not divide the logits")
        else:
            rows = len(offsets) - 1
        if rows != len(keys):
            raise ValueError(f"{len(keys)} keys for {rows} examples")
        if not np.isfinite(logits).all():
            raise ValueError("logits that are not finite")

    @staticmethod
    def check_replaceable(path: str | Path) -> None:
        """Refuse to overwrite a file that holds something else than soft labels, damaged ones excepted.

        Raises:
            InputError: in that case.
        """
        try:
            with safe_open(str(path), framework="np") as file:
                is_other = (file.metadata() or {}).get("format") not in READABLE_FORMATS
        except FileNotFoundError:
            return
        except (SafetensorError, OSError):
            is_other = Path(path).suffix != ".safetensors"
        if is_other:
            raise InputError(f"{path} is no file of soft labels, so it is not overwritten; name another file")

    def _key_indices(self, features: Dataset, teacher_index: int) -> np.ndarray:
        """Return the index of each row's key in `keys`, or -1."""
        index_of = {key.tobytes(): index for index, key in enumerate(self.keys)}
        row_keys = content_keys(features, teacher_index)
        return np.array([index_of.get(key.tobytes(), -1) for key in row_keys], dtype=np.int64)

    def _by_example(self) -> np.ndarray | list[np.ndarray]:
        """Return the logits per example, (labels,) or (length, labels) each."""
        return self.logits if self.offsets is None else np.split(self.logits, self.offsets[1:-1])

    def _check_lengths(self, features: Dataset, logits: list[np.ndarray]) -> None:
        for row, ((ids,), row_logits) in enumerate(zip(iterate_rows(features, ["input_ids"]), logits, strict=True)):
            if len(ids) != len(row_logits):
                raise InputError(
                    f"row {row} has {len(ids)} tokens, but {len(row_logits)} soft labels of {self.teacher}; "
                    "soft labels per token need rows without padding and a teacher with the student's tokenizer"
                )

    def _tensors(self) -> dict[str, np.ndarray]:
        tensors = {"keys": self.keys, "logits": self.logits}
        return tensors if self.offsets is None else tensors | {"offsets": self.offsets}

    def _checksum(self) -> str:
        digest = hashlib.sha256(b"".join(tensor.tobytes() for tensor in self._tensors().values()))
        digest.update(json.dumps([self.teacher, self.revision, self.label_names]).encode())
        return digest.hexdigest()


def _stack_examples(logits: np.ndarray | list[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the logits of all examples as rows of one array, and the offsets if an example has several rows."""
    if logits[0].ndim == 1:
        return np.asarray(logits), None
    return np.concatenate(logits), np.cumsum([0, *map(len, logits)])


def attach_mean(
    features: Dataset,
    caches: Sequence[SoftLabels],
    weights: Sequence[float] | None = None,
    student_labels: tuple[str, ...] | None = None,
) -> Dataset:
    """Add the column `teacher_logits` with the weighted mean of several teachers' logits, as `TeacherEnsemble` does.

    Args:
        features: tokenised rows; features for teachers with other tokenizers are under `teacher_`, `teacher2_`, …
        caches: the soft labels of each teacher, in order.
        weights: one weight per teacher; they need not add up to 1 (equal weights).
        student_labels: the student's label names in the order of its logits (those of the first teacher).

    Raises:
        InputError: as in `SoftLabels.attach`; also if the weights do not fit the teachers.
    """
    names = student_labels or caches[0].label_names
    logits_by_teacher = [cache.logits_for(features, names, index) for index, cache in enumerate(caches)]
    shares = np.asarray(normalize_weights(weights, len(caches)), np.float32)
    rows = zip(*logits_by_teacher, strict=True)
    mean = [sum(share * logits for share, logits in zip(shares, row, strict=True)) for row in rows]
    if caches[0].offsets is None:
        return features.add_column(TEACHER_LOGITS, mean, feature=List(Value("float32")))
    return features.add_column(TEACHER_LOGITS, [[*row] for row in mean], feature=List(List(Value("float32"))))


def content_keys(features: Dataset, teacher_index: int = 0) -> np.ndarray:
    """Hash the teacher's input of each row: the token ids and, for text pairs, the segment ids, without padding.

    Args:
        features: rows with `input_ids`, or with `teacher_input_ids`, which are preferred.
        teacher_index: position of the teacher among several, from 0; the features of the second are under `teacher2_`.

    Returns:
        (rows, 16) `uint8`.

    Raises:
        InputError: if the data is not tokenised.
    """
    prefix = teacher_prefix(teacher_index)
    prefix = prefix if f"{prefix}input_ids" in features.column_names else ""
    columns = _feature_columns(features, prefix)
    keys = np.empty((len(features), KEY_BYTES), np.uint8)
    for index, values in enumerate(iterate_rows(features, columns)):
        row = dict(zip(columns, values, strict=True))
        mask = np.asarray(row.pop(f"{prefix}attention_mask", None) or [1] * len(values[0]), bool)
        ids, *segments = (np.asarray(value, np.int32)[mask] for value in row.values())
        # some tokenizers write segment ids that are all 0, others none: both must give the same key
        content = [ids, *(value for value in segments if value.any())]
        digest = hashlib.blake2b(digest_size=KEY_BYTES)
        for value in content:
            digest.update(len(value).to_bytes(4, "little") + value.tobytes())
        keys[index] = np.frombuffer(digest.digest(), np.uint8)
    return keys


def _feature_columns(features: Dataset, prefix: str) -> list[str]:
    names = [f"{prefix}{name}" for name in ("input_ids", "token_type_ids", "attention_mask")]
    if names[0] not in features.column_names:
        raise InputError(f"no column {names[0]!r} in the data; tokenise it first (there are {features.column_names})")
    return [name for name in names if name in features.column_names]


def default_path(revision: str) -> Path:
    """Return the file in the Hugging Face cache where the commands store the soft labels of a teacher's revision."""
    return Path(constants.HF_HOME) / "tkd-hf" / "soft-labels" / f"{revision}.safetensors"
