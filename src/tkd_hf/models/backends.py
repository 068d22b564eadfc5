"""What a backend is: how it stores a quantized or exported model, what files it owns, and how these are loaded and run.

`tkd_hf.quantization` holds the backends of this package, one per file. Whatever depends on a backend, from loading a
model to the text of its card, asks the objects in `BACKENDS`. `register_backend` adds one from outside the package.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..core.hardware import RECORDED_PACKAGES
from ..core.optional_dependencies import import_optional
from .checks import NO_PICKLES


Calibration = Callable[[], Iterable[dict[str, torch.Tensor]]]


class Runner(ABC):
    """A loaded classifier of any backend.

    A subclass sets `backend` and implements a call, which computes the logits of a batch, and `weight_types`.

    Args:
        name: the name to show to people.
        config: the configuration of the model, with the label names.
        tokenizer: the tokenizer of the model.
        files: the files of its weights, which give its size.
    """

    backend: str
    device = torch.device("cpu")

    def __init__(
        self,
        name: str,
        config: PretrainedConfig,
        tokenizer: PreTrainedTokenizerBase,
        files: list[Path],
    ):
        self.name, self.config, self.tokenizer, self.files = name, config, tokenizer, files

    @abstractmethod
    def __call__(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the logits of a padded batch: (batch, labels), or (batch, length, labels) for token classification.

        Inputs that the model does not take are left out. The logits are on the device of the model.
        """

    def batch_context(self) -> AbstractContextManager:
        """Return a context for running many batches: work that all of them share is done once."""
        return nullcontext()

    @abstractmethod
    def weight_types(self) -> Iterable[tuple[str, int]]:
        """Yield the data type and the number of elements of each weight tensor, as it is stored in memory."""

    @property
    def dtype(self) -> str:
        """The data types of at least 1 % of the weights each, the most common first: `float32`, `int8+float32`."""
        sizes: Counter[str] = Counter()
        for dtype, size in self.weight_types():
            sizes[dtype] += size
        return "+".join(dtype for dtype, size in sizes.most_common() if size * 100 >= sizes.total())

    def synchronize(self) -> None:
        """Wait until the device has finished all work, so that a clock can be read."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @property
    def megabytes(self) -> float:
        """The size of the weights on disk, in 10⁶ bytes."""
        return sum(path.stat().st_size for path in self.files) / 1e6


@dataclass(frozen=True)
class CardExample:
    """What the example code in a model card is made of.

    Args:
        repo_id: Hub id of the model, as Python source, because it may contain quotes.
        file: path of the export in the repository, as Python source.
        auto_class: the Auto class of transformers for the model's task.
        arguments: the arguments of the tokenizer, as Python source.
        is_tkd: whether the model is of this package's own architecture.
    """

    repo_id: str
    file: str
    auto_class: str
    arguments: str
    is_tkd: bool


class Backend(ABC):
    """A way to store a quantized or exported model, and to run it.

    There are two kinds. An *export* has files of its own (`exports`), and `load_export` returns what runs them. Other
    backends save `model.safetensors` with a `quantization_config` of their name in `config.json`, and `load` reads it.

    Attributes:
        name: the name in `--backend`, records and tables. For a backend without exports it is also the `quant_method`
            in the `quantization_config` of its models.
        schemes: what each scheme is, by the name that `--weights` takes; the first is the default.
        calibrated_schemes: the schemes that need examples to calibrate on.
        modules: the modules that must be installed.
        requirement: what to install them with, as pip takes it; by default, `tkd-hf[NAME]`.
        packages: the packages whose versions are recorded with every result.
        files: patterns of the files that the backend owns at the root of a run folder, beyond those of every model.
            `tkd-hf push` publishes them.
        folder: a folder inside a run folder for an export beside PyTorch weights. `tkd-hf push --include NAME`
            publishes it.
        exports: patterns of the files that `load_export` takes, the preferred ones first. They are not safetensors,
            which are PyTorch weights and take precedence.
        root_export: the export at the root of a Hub repository that makes a bare Hub id mean this backend.
        loaded_by_transformers: whether `from_pretrained` loads the folder without tkd-hf.

    Example (in full in `docs/extending.md`): derive a class, and call `register_backend` with an instance of it.
    """

    name: str
    schemes: Mapping[str, str]
    calibrated_schemes: Collection[str] = ()
    modules: Sequence[str] = ()
    requirement: str = ""
    packages: Sequence[str] = ()
    files: Sequence[str] = ()
    folder: str | None = None
    exports: Sequence[str] = ()
    root_export: str | None = None
    loaded_by_transformers: bool = False

    @abstractmethod
    def quantize(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        *,
        weights: str,
        calibration: Calibration,
    ) -> dict[str, Any]:
        """Write a complete model to a folder: weights, `config.json` and the tokenizer's files.

        Args:
            model: a float classifier. It must not be changed.
            tokenizer: its tokenizer.
            folder: an empty folder.
            weights: one of `schemes`.
            calibration: yields batches of one tokenized training example each, for `calibrated_schemes` only.

        Returns:
            a description for the run record, such as `{"weights": "int8", "activations": "int8 dynamic"}`.

        Raises:
            InputError: if the backend cannot store this model.
        """

    def load(
        self, auto_class: Any, model: str, revision: str | None, **options: Any
    ) -> tuple[PreTrainedModel, dict[str, Any]]:
        """Load a model whose `quantization_config` names this backend; by default, as transformers does.

        Args:
            auto_class: the Auto class for the model's task.
            model: folder or Hub id.
            revision: revision of the Hub id.
            options: more arguments of `from_pretrained`.

        Returns:
            the model, and a dictionary with the `missing_keys` and `unexpected_keys` of its files.
        """
        return load_pretrained(auto_class, model, revision, **options)

    def load_export(
        self, name: str, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, file: Path
    ) -> Runner:
        """Load an export.

        Args:
            name: the name to show to people.
            config, tokenizer: the configuration and the tokenizer of the model.
            file: a file that matches `exports`.

        Raises:
            InputError: if it cannot be loaded, or a package that it needs is not installed.
        """
        raise NotImplementedError(f"{type(self).__name__} has exports, but no load_export")

    def weight_type(self, weight: torch.Tensor) -> str:
        """Return the data type in which a parameter of a loaded model is stored, such as `"int8"`."""
        return stored_type(weight)

    def card_example(self, example: CardExample) -> str:
        """Return the text for a model's card that says how to run its export; empty for no text."""
        return ""

    def require(self, purpose: str) -> None:
        """Check that `modules` are installed, and import them.

        Args:
            purpose: what needs them, for the error message.

        Raises:
            InputError: if one is not installed. The message contains the command to install it.
        """
        for module in self.modules:
            import_optional(module, self.requirement or f"tkd-hf[{self.name}]", purpose)

    def exported_files(self, path: Path) -> list[Path]:
        """List the exports in a folder, the one to run first; for the path of a file, that file if it is an export."""
        if path.is_file():
            return [path] if any(fnmatch(path.name, Path(pattern).name) for pattern in self.exports) else []
        return list(dict.fromkeys(file for pattern in self.exports for file in sorted(path.glob(pattern))))

    def owns(self, file: Path) -> bool:
        """Return whether a file is the backend's own, and no pickle although it may be named like one (`.bin`)."""
        return any(fnmatch(file.name, Path(pattern).name) for pattern in (*self.files, *self.exports))


# Backends by name. If a folder holds exports of several, the first of them is loaded.
BACKENDS: dict[str, Backend] = {}


def register_backend(backend: Backend) -> None:
    """Add a backend to `BACKENDS`, where every command finds it; one of the same name is replaced.

    Call it when your module is imported. Every process that uses the backend must import that module.

    Example (`Float16`: a subclass of `Backend`):

        register_backend(Float16())
        quantize("runs/student", "runs/student-float16", "float16")
    """
    BACKENDS[backend.name] = backend
    RECORDED_PACKAGES.update(backend.packages)


def load_pretrained(
    auto_class: Any, model: str, revision: str | None, **options: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load a model with an Auto class of transformers, for `tkd_hf.models.loading`, which checks the result.

    Returns:
        the model, and a dictionary with the `missing_keys` and `unexpected_keys` of its files.
    """
    return auto_class.from_pretrained(model, revision=revision, output_loading_info=True, **NO_PICKLES, **options)


def stored_type(weight: torch.Tensor) -> str:
    """Return the name of a tensor's data type, such as `"float32"`."""
    return str(weight.dtype).removeprefix("torch.")
