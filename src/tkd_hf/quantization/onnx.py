"""ONNX, for onnxruntime and transformers.js: a float file, and beside it a file with weights in int8, or int8 and int4.

The folder has the layout that transformers.js and optimum read: `onnx/model.onnx` and `onnx/model_quantized.onnx`.

Choose this backend to run a student anywhere: on CPUs of any maker, in the browser, without PyTorch. On a CPU,
`int8-dynamic` is usually the fastest scheme for one short text at a time. It rounds activations in the range of each
batch, so it needs no calibration data. It uses only 7 of the 8 bits of a weight, so that sums do not overflow on
processors without VNNI. `int8-dynamic-int4-embeddings` makes the file smaller, because embeddings are most of a small
model, and takes a little longer.
"""

import copy
from collections.abc import Iterable
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..core.errors import InputError, first_line
from ..core.optional_dependencies import import_optional, suppress_exporter_output
from ..models.backends import Backend, Calibration, CardExample, Runner
from ..models.signals import accepted_inputs
from .int4 import pack_lookup_tables


REQUIREMENT = "tkd-hf[onnx]"
FLOAT_FILE, QUANTIZED_FILE = "onnx/model.onnx", "onnx/model_quantized.onnx"
TOLERANCE = 1e-4  # largest difference of a logit between PyTorch and ONNX, relative to the largest logit if above 1
OPSET = 23  # the first opset with attention as a single operator; onnxruntime runs it from version 1.23 on
# Tables of up to this many rows, such as token types, stay floats: they take few bytes, and every token uses them.
MAX_FLOAT_TABLE_ROWS = 8
_LOGGERS = ("torch.onnx", "onnxscript", "root")
# The batch for the export has two texts, one padded, because the exporter takes a dimension of 1 for a constant.
_TRACED_TEXTS = ["a text", "another text with a few more words"]
# Batches of other sizes and lengths, to compare the export with PyTorch.
_COMPARED_BATCHES = [
    _TRACED_TEXTS,
    ["word"],
    ["a batch of three texts", "with different lengths", "so that two of them need padding at the end"],
]


class ONNX(Backend):
    """Files for onnxruntime, in the folder `onnx/`."""

    name = "onnx"
    schemes = {
        "int8-dynamic": "Matrices and embeddings in int8, activations rounded in the range of each batch.",
        "int8-dynamic-int4-embeddings": "As int8-dynamic, with embeddings in 4 bits, which are half as large.",
        "float32": "Nothing is quantized; only the runtime changes.",
    }
    modules = ("onnx", "onnxscript", "onnxruntime")
    requirement = REQUIREMENT
    packages = ("onnxruntime",)
    files = ("model*.onnx", "model*.onnx_data", "ort_config.json")
    folder = "onnx"
    exports = ("model_quantized.onnx", "model.onnx", QUANTIZED_FILE, FLOAT_FILE, "model*.onnx", "onnx/*.onnx")

    def require(self, purpose: str) -> None:
        super().require(purpose)
        import_onnxruntime(purpose)

    def quantize(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        *,
        weights: str,
        calibration: Calibration | None = None,
    ) -> dict[str, Any]:
        """Write `onnx/model.onnx` in float32, and for other schemes `onnx/model_quantized.onnx` beside it.

        The arguments and the result are those of `Backend.quantize`. Activations are rounded in the range of each
        batch, so no examples are needed.

        Raises:
            InputError: if the model cannot be exported, or its logits in onnxruntime differ from those in PyTorch.
        """
        file = folder / FLOAT_FILE
        file.parent.mkdir()
        config = copy.deepcopy(model.config)
        config.architectures = [type(model).__name__]  # names the task, also of a model that was never saved
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        export(model, tokenizer, file)
        if weights == "float32":
            return {"weights": "float32", "activations": "float32"}
        int4 = weights == "int8-dynamic-int4-embeddings"
        _quantize_file(file, folder / QUANTIZED_FILE, int4)
        return {"weights": "int8, embeddings int4" if int4 else "int8", "activations": "int8 dynamic"}

    def load_export(
        self, name: str, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, file: Path
    ) -> "ONNXRunner":
        return ONNXRunner(name, config, tokenizer, file)

    def card_example(self, example: CardExample) -> str:
        return f"""\
With ONNX Runtime (`pip install huggingface_hub onnxruntime`):

```python
import onnxruntime
from huggingface_hub import hf_hub_download
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({example.repo_id})
session = onnxruntime.InferenceSession(hf_hub_download({example.repo_id}, {example.file}))
batch = tokenizer({example.arguments}, return_tensors="np")
input_names = {{model_input.name for model_input in session.get_inputs()}}
logits = session.run(["logits"], {{name: value for name, value in batch.items() if name in input_names}})[0]
```"""


def import_onnxruntime(purpose: str) -> ModuleType:
    """Import onnxruntime without its telemetry.

    Args:
        purpose: what needs it, for the error message.

    Raises:
        InputError: if it is not installed.
    """
    runtime = import_optional("onnxruntime", REQUIREMENT, purpose)
    runtime.disable_telemetry_events()
    return runtime


class ONNXRunner(Runner):
    """An ONNX file, run by onnxruntime on the CPU with as many threads as torch uses.

    Args:
        name: the name to show to people.
        config, tokenizer: the configuration and the tokenizer of the model.
        file: the ONNX file.

    Raises:
        InputError: if onnxruntime is not installed or cannot load the file, or if the file gives no logits.
    """

    backend = ONNX.name

    def __init__(self, name: str, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, file: Path):
        runtime = import_onnxruntime(name)
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
        onnx = import_optional("onnx", REQUIREMENT, self.name)
        for tensor in onnx.load(self.files[0], load_external_data=False).graph.initializer:
            yield onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name, prod(tensor.dims)


class _PositionalClassifier(nn.Module):
    """A classifier that takes its inputs by position, as the exporter needs it, and returns logits only."""

    def __init__(self, model: PreTrainedModel, inputs: list[str]):
        super().__init__()
        self.model, self.inputs = model, inputs

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(self.inputs, values, strict=True))).logits


def export(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, file: Path) -> None:
    """Export a classifier to an ONNX file for batches of any size and length, and compare its logits with PyTorch's.

    Args:
        model: the classifier. It is not changed.
        tokenizer: its tokenizer.
        file: path of the file to write, in an existing folder.

    Raises:
        InputError: if the model cannot be exported, or its logits in onnxruntime differ from those in PyTorch.
    """
    inputs = [name for name in tokenizer.model_input_names if name in accepted_inputs(model)]
    if getattr(model.config, "type_vocab_size", None) == 0:
        inputs = [name for name in inputs if name != "token_type_ids"]
    batch = tokenizer(_TRACED_TEXTS, padding=True, return_tensors="pt")
    training = model.training
    try:
        with suppress_exporter_output(*_LOGGERS), torch.no_grad():
            torch.onnx.export(
                # A new module is in training mode, which would switch dropout on again.
                _PositionalClassifier(model, inputs).eval(),
                tuple(batch[name].to(model.device) for name in inputs),
                str(file),
                input_names=inputs,
                output_names=["logits"],
                dynamic_shapes=(({0: "batch_size", 1: "sequence_length"},) * len(inputs),),  # one tuple, for `*values`
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        _clean_graph(file)
        _compare_with_pytorch(model, tokenizer, file)
    except torch.onnx.errors.OnnxExporterError as error:
        raise InputError(
            f"{model.config.name_or_path or type(model).__name__} ({model.config.model_type}) cannot be exported to "
            f"ONNX: {first_line(error)}"
        ) from error
    finally:
        model.train(training)


def _clean_graph(file: Path) -> None:
    """Remove source locations from an exported graph, and keep onnxruntime from fusing additions with layer norms.

    The exporter notes for every node which source lines it comes from, with paths of this machine.

    onnxruntime fuses an addition and the layer norm after it into one operator (`SkipLayerNormalization`), which takes
    longer on a CPU than the two operators (version 1.32; we know of no issue about it). It does not fuse a `Sum`.
    """
    import onnx

    graph = onnx.load(file)
    for node in (*graph.graph.node, *(node for function in graph.functions for node in function.node)):
        del node.metadata_props[:]
    norm_inputs = {node.input[0] for node in graph.graph.node if node.op_type == "LayerNormalization"}
    for node in graph.graph.node:
        if node.op_type == "Add" and node.output[0] in norm_inputs:
            node.op_type = "Sum"
    onnx.save(graph, file)


def _compare_with_pytorch(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, file: Path) -> None:
    """Raise an `InputError` if the logits of an exported file differ from the model's in any of several batches."""
    runner = ONNXRunner(str(file), model.config, tokenizer, file)
    for texts in _COMPARED_BATCHES:
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        with torch.inference_mode():
            expected = model(**{name: batch[name].to(model.device) for name in runner.inputs}).logits.cpu()
        actual = runner(dict(batch))
        if expected.dim() == 3:  # token classification: a logit per token, of which only those of real tokens matter
            real = batch["attention_mask"].bool()
            actual, expected = actual[real], expected[real]
        difference = (actual - expected).abs().max().item()
        allowed = TOLERANCE * max(1, expected.abs().max().item())
        if not difference <= allowed:  # also refuses NaN
            raise InputError(
                f"{model.config.name_or_path or type(model).__name__} has other logits in ONNX than in PyTorch: in a "
                f"batch of {len(texts)} a logit differs by {difference:.2g}, and {allowed:.2g} is allowed; use another "
                "backend for this model"
            )


def _quantize_file(source: Path, target: Path, int4_embeddings: bool) -> None:
    """Write an ONNX file with int8 matrices, and embeddings in int8 or in 4 bits."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(source)
    lookups = _table_rows_by_lookup(graph)
    excluded = [name for name, rows in lookups.items() if rows <= MAX_FLOAT_TABLE_ROWS]
    if int4_embeddings:
        excluded += pack_lookup_tables(graph.graph, lookups.keys() - {*excluded})
    with suppress_exporter_output(*_LOGGERS):
        quantize_dynamic(
            graph,
            target,
            op_types_to_quantize=["MatMul", "Gather"],
            nodes_to_exclude=excluded,
            weight_type=QuantType.QInt8,
            per_channel=True,
            # Weights get 7 bits: processors without VNNI add products of two 8-bit numbers in 16 bits, which
            # overflow and lose far more than the eighth bit gains.
            reduce_range=True,
        )


def _table_rows_by_lookup(graph: Any) -> dict[str, int]:
    """Return the number of rows of the float table that each lookup node reads, by the node's name."""
    from onnx import TensorProto

    tables = {tensor.name: tensor for tensor in graph.graph.initializer}
    return {
        node.name: table.dims[0]
        for node in graph.graph.node
        if node.op_type == "Gather"
        and (table := tables.get(node.input[0]))
        and table.data_type == TensorProto.FLOAT
        and len(table.dims) == 2
    }
