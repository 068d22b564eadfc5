"""Run a classifier through one interface, whatever its backend: PyTorch or one of `tkd_hf.quantization`.

A model is named by its folder or Hub id. An export that is stored beside PyTorch weights is named by its path within
the folder or repository: `runs/x/openvino`, `runs/x/onnx/model_quantized.onnx`, `org/model/onnx/model.onnx`.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..core.errors import InputError
from ..core.hardware import has_fast_bf16, mixed_precision
from ..models.backends import Runner, stored_type
from ..models.loading import (
    classifier_class,
    load_classifier_with_tokenizer,
    load_config,
    load_tokenizer,
    local_path,
    weight_files,
)
from ..models.quantized import quantized_by
from ..models.signals import accepted_inputs
from ..quantization import BACKENDS, Backend


__all__ = ["PyTorchRunner", "Runner", "find_export", "load_runner", "runner_config"]


class PyTorchRunner(Runner):
    """A transformers model, which may be quantized.

    Args:
        model: the model, on the device to run on. Its weights and its mode (training or evaluation) stay as they are.
        tokenizer: the tokenizer of the model.
        name: the name to show to people; by default the folder or Hub id that the model was loaded from.
        files: the files of its weights, if it was loaded.
        bf16: whether to compute in bfloat16; by default, if the device computes in it natively.
        backend: name of the backend; by default, of the library that quantized the model, or `"pytorch"`.

    Example (`model`, `tokenizer`: a classifier and its tokenizer):

        logits = PyTorchRunner(model, tokenizer)(tokenizer(["a fine film"], return_tensors="pt"))
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str | None = None,
        files: list[Path] | None = None,
        bf16: bool | None = None,
        backend: str | None = None,
    ):
        name = name or model.config.name_or_path or type(model).__name__
        super().__init__(name, model.config, tokenizer, files or [])
        self.model, self.device = model, model.device
        self.bf16 = has_fast_bf16(use_cpu=self.device.type == "cpu") if bf16 is None else bf16
        # In inference mode, autocast would cast the weights for every batch, even inside `batch_context`.
        self._no_gradients = torch.no_grad if self.bf16 else torch.inference_mode
        self.backend = backend or quantized_by(model) or "pytorch"
        self._accepted = accepted_inputs(model)

    def __call__(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        features = {name: value.to(self.device) for name, value in batch.items() if name in self._accepted}
        training = self.model.training
        if training:
            self.model.eval()
        try:
            with self._no_gradients(), mixed_precision(self.device, self.bf16):
                return self.model(**features).logits
        finally:
            if training:
                self.model.train()

    def batch_context(self) -> AbstractContextManager:
        """Return a context that casts the weights to bfloat16 once; without it, every batch casts them."""
        return mixed_precision(self.device, self.bf16)

    def weight_types(self) -> Iterable[tuple[str, int]]:
        weight_type = BACKENDS[self.backend].weight_type if self.backend in BACKENDS else stored_type
        for weight in self.model.parameters():
            yield weight_type(weight), weight.numel()


def load_runner(model: str, problem_type: str | None = None, bf16: bool | None = False) -> Runner:
    """Load a model with the backend that its files are for.

    PyTorch weights take precedence over exports in the same folder, and run on the GPU if there is one. Name an export
    by its path to load it nevertheless.

    Args:
        model: a folder, a Hub id, or the path of an export within one of them.
        problem_type: the problem type that the model must have, as in `Task`; by default, any.
        bf16: as in `PyTorchRunner`. By default the model runs in the precision in which it is saved.

    Raises:
        InputError: for a model that cannot be loaded or has another problem type, or if its backend needs a package
            that is not installed.

    Example (`runs/x`: a folder with a model and its ONNX export):

        runner = load_runner("runs/x/onnx/model_quantized.onnx")
        logits = runner(runner.tokenizer(["a fine film"], return_tensors="pt"))
    """
    path, export = _locate(model)
    if export is None:
        classifier, tokenizer = load_classifier_with_tokenizer(model, problem_type, dtype="auto")
        if classifier.device.type == "cpu" and torch.cuda.is_available():
            classifier.to("cuda")  # type: ignore[arg-type]  # wrapped by transformers; mypy does not bind its self
        return PyTorchRunner(classifier, tokenizer, model, weight_files(model), bf16)
    backend, file = export
    config = load_config(_folder_with("config.json", path))
    classifier_class(config, problem_type, model)  # raises an error for another problem type
    return backend.load_export(model, config, load_tokenizer(_folder_with("tokenizer_config.json", path)), file)


def runner_config(model: str) -> PretrainedConfig:
    """Return the configuration of a model that is named as for `load_runner`, without loading the model."""
    path, export = _locate(model)
    return load_config(model if export is None else _folder_with("config.json", path))


def find_export(path: Path) -> tuple[Backend, Path] | None:
    """Return the export in a folder, or the one that a path names, and its backend; `None` if there is none."""
    exports = ((backend, file) for backend in BACKENDS.values() for file in backend.exported_files(path))
    return next(exports, None)


def _locate(model: str) -> tuple[Path, tuple[Backend, Path] | None]:
    """Return the local path of a model, and its export; `None` for PyTorch weights, which take precedence."""
    path = local_path(model)
    return path, None if weight_files(model) else find_export(path)


def _folder_with(name: str, path: Path) -> str:
    """Return the folder of an export's configuration or tokenizer: `path` itself or one of the two folders above."""
    for folder in (path, *list(path.absolute().parents)[:2]):
        if (folder / name).exists():
            return str(folder)
    raise InputError(f"no {name} in {path} or above it; keep an export within the folder of its model")
