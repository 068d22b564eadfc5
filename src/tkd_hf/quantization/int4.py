"""Embeddings in 4 bits: the rounding, and the ONNX nodes that look up and unpack them.

How 4 bits hold a number: 32 neighbouring numbers of a row form a block. The range from the lowest to the highest number
of the block, widened to include 0, is divided into 15 equal steps of size `scale`. Each number is stored as an integer
from 0 to 15, the nearest step. One of these steps, the `zero`, stands for exactly 0, so that

    number ≈ (step - zero) * scale

A block takes 32 × 4 bits for the steps, 4 bits for its zero and 16 bits for its scale.

onnxruntime has an operator for such lookups (`GatherBlockQuantized`). In version 1.32 it takes several times as long as
the ordinary operators used here.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn


# Neighbours in a row that share a scale and a zero. A number takes 4.6 bits with its share of both.
BLOCK = 32
LEVELS = 15  # the largest integer of 4 bits
_SMALLEST_SCALE = torch.finfo(torch.float16).tiny


def quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Round each block of `BLOCK` neighbours to 16 evenly spaced numbers between its minimum and maximum.

    The minimum counts as at most 0 and the maximum as at least 0, so that 0 stays exactly 0. The last block of a row
    may be shorter.

    Args:
        rows: (…, width), floats.

    Returns:
        three float32 tensors: steps (…, width) and zeros (…, blocks), integers from 0 to 15, and scales (…, blocks),
        which float16 holds exactly. A number is `(step - zero) * scale`.

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf.quantization.int4 import quantize_rows
    >>> quantize_rows(torch.tensor([[-0.5, 0.0, 0.25, 7.0]]))
    (tensor([[ 0.,  1.,  2., 15.]]), tensor([[1.]]), tensor([[0.5000]]))

    ```
    """
    width = rows.shape[-1]
    blocks = nn.functional.pad(rows.float(), (0, -width % BLOCK)).unflatten(-1, (-1, BLOCK))
    low, high = blocks.amin(-1, keepdim=True).clamp(max=0), blocks.amax(-1, keepdim=True).clamp(min=0)
    scales = ((high - low) / LEVELS).clamp(min=_SMALLEST_SCALE).half().float()
    zeros = (-low / scales).round().clamp(max=LEVELS)
    steps = (blocks / scales + zeros).round().clamp(0, LEVELS)
    return steps.flatten(-2)[..., :width], zeros.squeeze(-1), scales.squeeze(-1)


def dequantized_rows(rows: Tensor) -> Tensor:
    """Round rows of floats, (…, width), to 4 bits and back to float32, bit for bit as the ONNX graph does."""
    steps, zeros, scales = quantize_rows(rows)
    zeros, scales = (values.repeat_interleave(BLOCK, -1)[..., : rows.shape[-1]] for values in (zeros, scales))
    return (steps - zeros) * scales


def pack_table(table: Tensor) -> tuple[Tensor, Tensor]:
    """Pack a table into bytes, with two 4-bit integers per byte.

    A row's steps are followed by its zeros. The first half of this sequence is stored in the lower four bits of the
    bytes, the second half in the upper four.

    Args:
        table: (rows, width), floats.

    Returns:
        bytes (rows, half of width and blocks, rounded up) and float16 scales (rows, blocks).
    """
    steps, zeros, scales = quantize_rows(table)
    integers = torch.cat([steps, zeros], -1).to(torch.uint8)
    low, high = nn.functional.pad(integers, (0, integers.shape[-1] % 2)).chunk(2, -1)
    return low | high << 4, scales.half()


def pack_lookup_tables(graph: Any, lookups: Collection[str]) -> list[str]:
    """Replace the float tables of lookups in an ONNX graph by 4-bit tables, and unpack the rows after each lookup.

    Args:
        graph: ONNX graph; it is changed in place.
        lookups: names of `Gather` nodes that look up rows of a table of floats.

    Returns:
        names of the new `Gather` nodes that replace them.
    """
    from onnx.numpy_helper import to_array

    tables = {tensor.name: tensor for tensor in graph.initializer}
    nodes, names = list(graph.node), []
    del graph.node[:]
    for node in nodes:
        if node.name not in lookups:
            graph.node.append(node)
            continue
        new_nodes, constants = _unpacking_nodes(node, torch.tensor(to_array(tables[node.input[0]])))
        graph.node.extend(new_nodes)
        graph.initializer.extend(constants)
        names += [new_node.name for new_node in new_nodes if new_node.op_type == "Gather"]
    used = {name for node in graph.node for name in node.input}
    used_tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(used_tensors)
    return names


def _unpacking_nodes(lookup: Any, table: Tensor) -> tuple[list[Any], list[Any]]:
    """Return the nodes that look up and unpack rows of a 4-bit table, and the constants that they need.

    Args:
        lookup: the `Gather` node that they replace; the last new node writes its output.
        table: the table of floats that it looks up.
    """
    from onnx import TensorProto, helper, numpy_helper

    def local(name: str) -> str:
        return f"{lookup.name}_{name}"

    (rows, scales), (width, blocks) = pack_table(table), (table.shape[1], -(-table.shape[1] // BLOCK))
    ids, output = lookup.input[1], lookup.output[0]
    has_padding = (width + blocks) % 2 == 1
    constants = {
        local("rows"): rows,
        local("scales"): scales,
        local("mask"): torch.tensor(LEVELS, dtype=torch.uint8),
        local("shift"): torch.tensor(4, dtype=torch.uint8),
        local("parts"): torch.tensor([width, blocks, 1] if has_padding else [width, blocks]),
    }
    parts = [local("steps"), local("zeros"), local("padding")] if has_padding else [local("steps"), local("zeros")]
    dequantize_inputs = [local("steps"), local("float_scales"), local("zeros")]
    # operator, inputs, outputs, attributes
    nodes: list[tuple[str, list[str], list[str], dict[str, Any]]] = [
        ("Gather", [local("rows"), ids], [local("bytes")], {}),
        ("BitwiseAnd", [local("bytes"), local("mask")], [local("low")], {}),
        ("BitShift", [local("bytes"), local("shift")], [local("high")], {"direction": "RIGHT"}),
        ("Concat", [local("low"), local("high")], [local("integers")], {"axis": -1}),
        ("Split", [local("integers"), local("parts")], parts, {"axis": -1}),
        ("Gather", [local("scales"), ids], [local("half_scales")], {}),
        ("Cast", [local("half_scales")], [local("float_scales")], {"to": TensorProto.FLOAT}),
        ("DequantizeLinear", dequantize_inputs, [output], {"axis": -1, "block_size": BLOCK}),
    ]
    return (
        [
            helper.make_node(operator, inputs, outputs, name=outputs[0], **attributes)
            for operator, inputs, outputs, attributes in nodes
        ],
        [numpy_helper.from_array(value.numpy(), name) for name, value in constants.items()],
    )
