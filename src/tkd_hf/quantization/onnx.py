"""ONNX, for onnxruntime and transformers.js: a float file, and beside it one with weights in int8, or int8 and int4.

The layout is the one that transformers.js and optimum read: `onnx/model.onnx` and `onnx/model_quantized.onnx`.
"""

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import InputError, first_line
from ..evaluation.runners import ONNXRunner
from ..signals import accepted_inputs
from . import suppress_exporter_output
from .int4 import pack_lookup_tables


SCHEMES = ("int8-dynamic", "int8-dynamic-int4-embeddings", "float32")
CALIBRATED_SCHEMES = ()

FLOAT_FILE, QUANTIZED_FILE = "onnx/model.onnx", "onnx/model_quantized.onnx"
TOLERANCE = 1e-4
OPSET = 23  # the first with attention as one operator; others take it apart into some twenty
MAX_FLOAT_TABLE_ROWS = (
    8  # rows of a table that is left in floats: of token types, a few bytes, and a part of every token
)
_LOGGERS = ("torch.onnx", "onnxscript", "root")
# two texts and their padding: a dimension of 1 would be taken for a constant
_TRACED = ["a text", "another one, of a few more words"]
_COMPARED = [
    _TRACED,
    ["one"],
    ["the same in a batch of three", "of which all differ", "in length, too, by a few words"],
]


class _Logits(nn.Module):
    """A classifier with its inputs by position, as a graph has them."""

    def __init__(self, model: PreTrainedModel, inputs: list[str]):
        super().__init__()
        self.model, self.inputs = model, inputs

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(self.inputs, values, strict=True))).logits


def quantize(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    weights: str,
    calibration: Callable[[], Iterable[dict[str, torch.Tensor]]],
) -> dict[str, Any]:
    """Writes `onnx/model.onnx` in float32, and, for all but `float32`, `onnx/model_quantized.onnx` beside it.

    There, matrices and embeddings are in int8; activations are rounded as they come, so nothing is calibrated.

    Args:
        model, tokenizer: a bert-like classifier, TKD or another.
        folder: an empty folder.
        weights: `"int8-dynamic"`, `"int8-dynamic-int4-embeddings"`, most of a small model in half of that, or
            `"float32"`.
        calibration: not called.

    Raises:
        InputError: if the model cannot be exported, or answers otherwise in onnxruntime than in PyTorch.
    """
    file = folder / FLOAT_FILE
    file.parent.mkdir()
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]  # what of a model that was never saved says its task
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    export(model, tokenizer, file)
    if weights == "float32":
        return {"weights": "float32", "activations": "float32"}
    int4 = weights == "int8-dynamic-int4-embeddings"
    _quantize_file(file, folder / QUANTIZED_FILE, int4)
    return {"weights": "int8, embeddings int4" if int4 else "int8", "activations": "int8 dynamic"}


def export(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, file: Path) -> None:
    """Writes a classifier as one ONNX file for batches of any size and length, and compares it with PyTorch.

    Raises:
        InputError: as `quantize`.
    """
    inputs = [name for name in tokenizer.model_input_names if name in accepted_inputs(model)]
    if getattr(model.config, "type_vocab_size", None) == 0:
        inputs = [name for name in inputs if name != "token_type_ids"]
    batch = tokenizer(_TRACED, padding=True, return_tensors="pt")
    training = model.training
    try:
        with suppress_exporter_output(*_LOGGERS), torch.no_grad():
            torch.onnx.export(
                _Logits(model, inputs).eval(),  # a wrapper is born in training mode, and dropout would come back on
                tuple(batch[name].to(model.device) for name in inputs),
                str(file),
                input_names=inputs,
                output_names=["logits"],
                dynamic_shapes=(({0: "batch_size", 1: "sequence_length"},) * len(inputs),),  # of *values
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        _tidy(file)
        _compare(model, tokenizer, file)
    except torch.onnx.errors.OnnxExporterError as error:
        raise InputError(
            f"{model.config.name_or_path or type(model).__name__} ({model.config.model_type}) cannot be exported to "
            f"ONNX: {first_line(error)}"
        ) from error
    finally:
        model.train(training)


def _tidy(file: Path) -> None:
    """Drops the lines of source that nodes come from, long and with folders of this machine; keeps norms on their own.

    onnxruntime makes one operator of an addition and the layer norm after it, which takes longer than the two (1.32,
    on a CPU; no issue is known). Of a `Sum` it makes none.
    """
    import onnx

    graph = onnx.load(file)
    for node in (*graph.graph.node, *(node for function in graph.functions for node in function.node)):
        del node.metadata_props[:]
    normed = {node.input[0] for node in graph.graph.node if node.op_type == "LayerNormalization"}
    for node in graph.graph.node:
        if node.op_type == "Add" and node.output[0] in normed:
            node.op_type = "Sum"
    onnx.save(graph, file)


def _compare(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, file: Path) -> None:
    """Batches of other sizes than the one that the graph was made from."""
    run = ONNXRunner(str(file), model.config, tokenizer, file)
    for texts in _COMPARED:
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        with torch.inference_mode():
            expected = model(**{name: batch[name].to(model.device) for name in run.inputs}).logits.cpu()
        distance = (run(dict(batch)) - expected).abs().max().item()
        if not distance <= TOLERANCE * max(1, expected.abs().max().item()):
            raise InputError(
                f"{model.config.name_or_path or type(model).__name__} answers otherwise in ONNX than in PyTorch: a "
                f"logit of a batch of {len(texts)} is {distance:.2g} off, where {TOLERANCE:g} is allowed"
            )


def _quantize_file(source: Path, target: Path, int4_embeddings: bool) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(source)
    lookups = _lookups(graph)
    as_they_are = [name for name, rows in lookups.items() if rows <= MAX_FLOAT_TABLE_ROWS]
    if int4_embeddings:
        as_they_are += pack_lookup_tables(graph.graph, lookups.keys() - {*as_they_are})
    with suppress_exporter_output(*_LOGGERS):
        quantize_dynamic(
            graph,
            target,
            op_types_to_quantize=["MatMul", "Gather"],
            nodes_to_exclude=as_they_are,
            weight_type=QuantType.QInt8,
            per_channel=True,
            # 7 bits: processors without VNNI add products of 8 by 8 bits in 16, which overflow, and far more is lost
            reduce_range=True,
        )


def _lookups(graph) -> dict[str, int]:
    """Nodes that look something up in rows of floats: the number of these rows by the node's name."""
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
