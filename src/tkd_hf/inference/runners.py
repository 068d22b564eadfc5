"""Run a classifier through one interface, whatever its backend: PyTorch, bitsandbytes, quanto, ONNX, OpenVINO.

A model is named by its folder or Hub id. An export that is stored beside PyTorch weights is named by its path within
the folder or repository: `runs/x/openvino`, `runs/x/onnx/model_quantized.onnx`, `org/model/onnx/model.onnx`.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from math import prod
from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..core.errors import InputError, first_line
from ..core.hardware import has_fast_bf16, mixed_precision
from ..core.optional_dependencies import import_optional
from ..models.loading import classifier_class, load_classifier, load_config, load_tokenizer, local_path, weight_files
from ..models.quantized import quantized_by
from ..models.signals import accepted_inputs


# Paths of exports in a folder without PyTorch weights. If several exist, the first of them is loaded.
EXPORT_FILES = (
    "openvino_model.xml",
    "openvino/openvino_model.xml",
    "model_quantized.onnx",
    "model.onnx",
    "onnx/model_quantized.onnx",
    "onnx/model.onnx",
)
_OPENVINO_TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_OPENVINO_TYPES |= {"i8": "int8", "u8": "uint8", "i4": "int4", "u4": "uint4"}


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


class PyTorchRunner(Runner):
    """A transformers model, which may be quantized by bitsandbytes or quanto.

    Args:
        model: the model, on the device to run on. Its weights and its mode (training or evaluation) stay as they are.
        tokenizer: the tokenizer of the model.
        name: the name to show to people; by default the folder or Hub id that the model was loaded from.
        files: the files of its weights, if it was loaded.
        bf16: whether to compute in bfloat16; by default, if the device computes in it natively.

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
    ):
        name = name or model.config.name_or_path or type(model).__name__
        super().__init__(name, model.config, tokenizer, files or [])
        self.model, self.device = model, model.device
        self.bf16 = has_fast_bf16(use_cpu=self.device.type == "cpu") if bf16 is None else bf16
        # In inference mode, autocast would cast the weights for every batch, even inside `batch_context`.
        self._no_gradients = torch.no_grad if self.bf16 else torch.inference_mode
        self.backend = quantized_by(model) or "pytorch"
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
        for weight in self.model.parameters():
            # Weights of bitsandbytes in 4 bits name their type (nf4, fp4), because a uint8 holds two of them.
            packed_type = getattr(weight, "quant_type", None)
            # Weights of quanto report the dtype that they stand for; their `qtype` has the dtype that is stored.
            stored_dtype = getattr(getattr(weight, "qtype", None), "dtype", weight.dtype)
            yield packed_type or str(stored_dtype).removeprefix("torch."), weight.numel()


class ONNXRunner(Runner):
    """An ONNX file, run by onnxruntime on the CPU with as many threads as torch uses."""

    backend = "onnx"

    def __init__(self, name: str, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, file: Path):
        runtime = import_optional("onnxruntime", "onnx", name)
        super().__init__(name, config, tokenizer, [file, *file.parent.glob(f"{file.name}*data")])
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the errors of onnxruntime have no common base class
            raise InputError(f"onnxruntime cannot load {file}: {first_line(error)}") from error
        self.inputs = [tensor.name for tensor in self._session.get_inputs()]
        self._outputs = [tensor.name for tensor in self._session.get_outputs()]
        if "logits" not in self._outputs:
            raise InputError(f"{file} has the outputs {', '.join(self._outputs)}, but no logits; export a classifier")

    def __call__(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        # If the tokenizer gives no segment ids, they are all 0.
        zeros = torch.zeros_like(batch["input_ids"])
        inputs = {name: batch.get(name, zeros).numpy() for name in self.inputs}
        return torch.from_numpy(self._session.run(["logits"], inputs)[0])

    def weight_types(self) -> Iterable[tuple[str, int]]:
        onnx = import_optional("onnx", "onnx", self.name)
        for tensor in onnx.load(self.files[0], load_external_data=False).graph.initializer:
            yield onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name, prod(tensor.dims)


class OpenVINORunner(Runner):
    """A folder with an OpenVINO model, run by optimum-intel with as many threads as torch uses.

    It computes in float32 unless the weights are quantized.
    """

    backend = "openvino"

    def __init__(self, name: str, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, file: Path):
        intel = import_optional("optimum.intel", "openvino", name)
        super().__init__(name, config, tokenizer, [file, file.with_suffix(".bin")])
        # Without the hint, OpenVINO computes in bfloat16 on processors that support it.
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": str(torch.get_num_threads())}
        model_class = getattr(intel, classifier_class(config).__name__.replace("AutoModel", "OVModel"))
        try:
            self._model = model_class.from_pretrained(str(file.parent), export=False, ov_config=options, config=config)
        except (RuntimeError, OSError, ValueError) as error:
            raise InputError(f"OpenVINO cannot load {file}: {first_line(error)}") from error

    def __call__(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self._model(**{name: value for name, value in batch.items() if name in self._model.input_names}).logits

    def weight_types(self) -> Iterable[tuple[str, int]]:
        for operation in self._model.model.get_ops():
            if operation.get_type_name() == "Constant":
                type_name = operation.get_element_type().get_type_name()
                yield _OPENVINO_TYPES.get(type_name, type_name), prod(operation.shape)


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
    path, export = _find_export(model)
    if export is None:
        classifier = load_classifier(model, problem_type)
        if classifier.device.type == "cpu" and torch.cuda.is_available():
            classifier.to("cuda")  # type: ignore[arg-type]  # wrapped by transformers; mypy does not bind its self
        return PyTorchRunner(classifier, load_tokenizer(model), model, weight_files(model), bf16)
    config = load_config(_folder_with("config.json", path))
    classifier_class(config, problem_type, model)  # raises an error for another problem type
    tokenizer = load_tokenizer(_folder_with("tokenizer_config.json", path))
    runner_class = ONNXRunner if export.suffix == ".onnx" else OpenVINORunner
    return runner_class(model, config, tokenizer, export)


def runner_config(model: str) -> PretrainedConfig:
    """Return the configuration of a model that is named as for `load_runner`, without loading the model."""
    path, export = _find_export(model)
    return load_config(model if export is None else _folder_with("config.json", path))


def _find_export(model: str) -> tuple[Path, Path | None]:
    """Return the local path of a model, and the file of its export; `None` for PyTorch weights."""
    path = local_path(model)
    if path.suffix == ".onnx":
        return path, path
    exports = [path / name for name in EXPORT_FILES if (path / name).exists()]
    return path, None if weight_files(model) or not exports else exports[0]


def _folder_with(name: str, path: Path) -> str:
    """Return the folder of an export's configuration or tokenizer: `path` itself or one of the two folders above."""
    for folder in (path, *list(path.absolute().parents)[:2]):
        if (folder / name).exists():
            return str(folder)
    raise InputError(f"no {name} in {path} or above it; keep an export within the folder of its model")
