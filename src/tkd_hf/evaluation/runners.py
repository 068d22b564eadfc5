"""One way to run a classifier, whatever it was saved for: PyTorch, bitsandbytes and quanto, ONNX, OpenVINO.

A model is named by its folder or Hub id. What stands beside PyTorch weights is named by its place within:
`runs/x/openvino`, `runs/x/onnx/model_quantized.onnx`, `org/model/onnx/model.onnx`.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from math import prod
from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..errors import InputError, first_line
from ..hardware import has_fast_bf16, mixed_precision
from ..model_loading import (
    classifier_class,
    load_classifier,
    load_config,
    load_tokenizer,
    local_path,
    quantized_by,
    weight_files,
)
from ..optional_dependencies import import_optional
from ..signals import accepted_inputs


# where an export lies in a folder without PyTorch weights; of several the first
EXPORT_FILES = ("openvino_model.xml", "openvino/openvino_model.xml")
EXPORT_FILES += ("model_quantized.onnx", "model.onnx", "onnx/model_quantized.onnx", "onnx/model.onnx")
_OPENVINO_TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_OPENVINO_TYPES |= {"i8": "int8", "u8": "uint8", "i4": "int4", "u4": "uint4"}


class Runner(ABC):
    """A classifier that is ready to answer.

    Args:
        name: how people call it.
        config: its configuration, with the label names.
        tokenizer: its tokenizer.
        files: its weights, for their size.
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
        """The logits of a padded batch, (batch, labels) or (batch, length, labels), on whatever device they are.

        Inputs that the model does not take are left out.
        """

    def batch_context(self) -> AbstractContextManager:
        """Goes around many batches in a row, so that what is the same for all of them is done once."""
        return nullcontext()

    @abstractmethod
    def weight_types(self) -> Iterable[tuple[str, int]]:
        """Type and number of elements of each tensor of weights, as it is held."""

    @property
    def dtype(self) -> str:
        """The types that at least 1 % of the elements have, the commonest first: `float32`, `int8+float32`."""
        sizes = Counter()
        for kind, size in self.weight_types():
            sizes[kind] += size
        return "+".join(kind for kind, size in sizes.most_common() if size * 100 >= sizes.total())

    def synchronize(self) -> None:
        """Waits until all work is done, for the clock."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @property
    def megabytes(self) -> float:
        """Size of the weights on disk, in 10⁶ bytes."""
        return sum(path.stat().st_size for path in self.files) / 1e6


class PyTorchRunner(Runner):
    """A model of transformers, quantized by bitsandbytes or quanto or not.

    Args:
        model: on the device to run on; its weights and mode stay as they are.
        tokenizer: its tokenizer.
        name: how people call it; by default what it was loaded from.
        files: its weights, if it was loaded.
        bf16: run in bfloat16; by default where the device computes in it natively.
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
        # in inference mode autocast makes weights anew for each batch, `many` or not
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
        """Keeps weights in bfloat16, too, if it runs in that; by itself each batch makes them anew."""
        return mixed_precision(self.device, self.bf16)

    def weight_types(self) -> Iterable[tuple[str, int]]:
        for weight in self.model.parameters():
            # bitsandbytes packs two weights of 4 bits, such as nf4, into a byte; quanto's pass for the floats they mean
            packed = getattr(weight, "quant_type", None)
            integer = getattr(getattr(weight, "qtype", None), "dtype", weight.dtype)
            yield packed or str(integer).removeprefix("torch."), weight.numel()


class ONNXRunner(Runner):
    """A file for onnxruntime, on the CPU, with as many threads as torch has."""

    backend = "onnx"

    def __init__(self, name: str, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, file: Path):
        runtime = import_optional("onnxruntime", "onnx", name)
        super().__init__(name, config, tokenizer, [file, *file.parent.glob(f"{file.name}*data")])
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no class
            raise InputError(f"onnxruntime cannot load {file}: {first_line(error)}") from error
        self.inputs = [tensor.name for tensor in self._session.get_inputs()]
        self._outputs = [tensor.name for tensor in self._session.get_outputs()]
        if "logits" not in self._outputs:
            raise InputError(f"{file} gives {', '.join(self._outputs)}, not logits; export a classifier")

    def __call__(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        # a tokenizer without segments says the same as segments that are all 0
        zeros = torch.zeros_like(batch["input_ids"])
        inputs = {name: batch.get(name, zeros).numpy() for name in self.inputs}
        return torch.from_numpy(self._session.run(["logits"], inputs)[0])

    def weight_types(self) -> Iterable[tuple[str, int]]:
        onnx = import_optional("onnx", "onnx", self.name)
        for tensor in onnx.load(self.files[0], load_external_data=False).graph.initializer:
            yield onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name, prod(tensor.dims)


class OpenVINORunner(Runner):
    """A folder that optimum-intel loads, in float32 where it was not quantized, with as many threads as torch has."""

    backend = "openvino"

    def __init__(self, name: str, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, file: Path):
        intel = import_optional("optimum.intel", "openvino", name)
        super().__init__(name, config, tokenizer, [file, file.with_suffix(".bin")])
        # its own default on processors with bfloat16 would be that
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": str(torch.get_num_threads())}
        kind = getattr(intel, classifier_class(config).__name__.replace("AutoModel", "OVModel"))
        try:
            self._model = kind.from_pretrained(str(file.parent), export=False, ov_config=options, config=config)
        except (RuntimeError, OSError, ValueError) as error:
            raise InputError(f"OpenVINO cannot load {file}: {first_line(error)}") from error

    def __call__(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self._model(**{name: value for name, value in batch.items() if name in self._model.input_names}).logits

    def weight_types(self) -> Iterable[tuple[str, int]]:
        for operation in self._model.model.get_ops():
            if operation.get_type_name() == "Constant":
                kind = operation.get_element_type().get_type_name()
                yield _OPENVINO_TYPES.get(kind, kind), prod(operation.shape)


def load_runner(model: str, problem_type: str | None = None, bf16: bool | None = False) -> Runner:
    """The runner for what a name means; PyTorch goes to the GPU if there is one.

    Args:
        model: folder, Hub id, or place within one of them; see the head of this file.
        problem_type: what it is to answer, as in `Task`; by default whatever it does.
        bf16: as in `PyTorchRunner`; by default in the precision that it was saved in.

    Raises:
        InputError: for what cannot be loaded, answers something else, or needs a package that is not installed.
    """
    place, export = _located(model)
    if export is None:
        classifier = load_classifier(model, problem_type)
        if classifier.device.type == "cpu" and torch.cuda.is_available():
            classifier.to("cuda")
        return PyTorchRunner(classifier, load_tokenizer(model), model, weight_files(model), bf16)
    config = load_config(_holder(place, "config.json"))
    classifier_class(config, problem_type, model)  # refuses another kind
    tokenizer = load_tokenizer(_holder(place, "tokenizer_config.json"))
    kind = ONNXRunner if export.suffix == ".onnx" else OpenVINORunner
    return kind(model, config, tokenizer, export)


def runner_config(model: str) -> PretrainedConfig:
    """The configuration of what `load_runner` takes."""
    place, export = _located(model)
    return load_config(model if export is None else _holder(place, "config.json"))


def _located(model: str) -> tuple[Path, Path | None]:
    """Where a model lies, and the file of its export, if it is none of PyTorch."""
    place = local_path(model)
    if place.suffix == ".onnx":
        return place, place
    exports = [place / name for name in EXPORT_FILES if (place / name).exists()]
    return place, None if weight_files(model) or not exports else exports[0]


def _holder(place: Path, name: str) -> str:
    """The folder that holds an export's configuration or tokenizer: its own, or one of the two above."""
    for folder in (place, *list(place.absolute().parents)[:2]):
        if (folder / name).exists():
            return str(folder)
    raise InputError(f"no {name} in {place} or above it; keep an export within the folder of its model")
