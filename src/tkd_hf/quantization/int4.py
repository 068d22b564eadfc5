"""Embeddings in 4 bits: how their rows are rounded, and the nodes of an ONNX graph that look them up.

onnxruntime has an operator for it (`GatherBlockQuantized`), which was several times as slow in 1.32 as the ordinary
ones that stand here.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn


BLOCK = 32  # neighbours in a row that share a scale and a zero: 4.6 bits a number, one scale a table costs 8
LEVELS = 15
_LEAST = torch.finfo(torch.float16).tiny


def quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rounds each `BLOCK` neighbours to the 16 steps between the lowest and the highest of them, 0 being one.

    Args:
        rows: (…, width), floats.

    Returns:
        steps (…, width) and zeros (…, blocks), whole numbers from 0 to 15, and scales (…, blocks), exact in half
        precision: a number is `(step - zero) * scale`. All are in float32.

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
    scales = ((high - low) / LEVELS).clamp(min=_LEAST).half().float()
    zeros = (-low / scales).round().clamp(max=LEVELS)
    steps = (blocks / scales + zeros).round().clamp(0, LEVELS)
    return steps.flatten(-2)[..., :width], zeros.squeeze(-1), scales.squeeze(-1)


def dequantized_rows(rows: Tensor) -> Tensor:
    """What the 4 bits of rows of floats, (…, width), stand for: in float32, the same as an ONNX graph looks up."""
    steps, zeros, scales = quantize_rows(rows)
    zeros, scales = (part.repeat_interleave(BLOCK, -1)[..., : rows.shape[-1]] for part in (zeros, scales))
    return (steps - zeros) * scales


def pack_table(table: Tensor) -> tuple[Tensor, Tensor]:
    """A table (rows, width) as bytes (rows, half of width and blocks) and float16 scales (rows, blocks).

    A row's steps are followed by its zeros; its first half is in the lower bits, its second in the higher ones.
    """
    steps, zeros, scales = quantize_rows(table)
    numbers = torch.cat([steps, zeros], -1).to(torch.uint8)
    low, high = nn.functional.pad(numbers, (0, numbers.shape[-1] % 2)).chunk(2, -1)
    return low | high << 4, scales.half()


def pack_lookup_tables(graph, lookups: Collection[str]) -> list[str]:
    """Packs tables that an ONNX graph looks up in, and unpacks what it finds.

    Args:
        graph: changed in place.
        lookups: names of `Gather` nodes, each in rows of floats.

    Returns:
        names of the nodes that are in their place and still look something up.
    """
    from onnx.numpy_helper import to_array

    tables = {tensor.name: tensor for tensor in graph.initializer}
    nodes, names = list(graph.node), []
    del graph.node[:]
    for node in nodes:
        if node.name not in lookups:
            graph.node.append(node)
            continue
        found, constants = _unpacking(node, torch.tensor(to_array(tables[node.input[0]])))
        graph.node.extend(found)
        graph.initializer.extend(constants)
        names += [one.name for one in found if one.op_type == "Gather"]
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return names


def _unpacking(lookup, table: Tensor) -> tuple[list, list]:
    """What takes the place of a lookup: nodes, and the packed table and its scales among their constants."""
    from onnx import TensorProto, helper, numpy_helper

    (rows, scales), (width, blocks) = pack_table(table), (table.shape[1], -(-table.shape[1] // BLOCK))
    constants = {
        "rows": rows,
        "scales": scales,
        "mask": torch.tensor(LEVELS, dtype=torch.uint8),
        "shift": torch.tensor(4, dtype=torch.uint8),
        "parts": torch.tensor([width, blocks, *([1] if (width + blocks) % 2 else [])]),
    }
    nodes = [
        ("Gather", ["rows", lookup.input[1]], ["bytes"], {}),
        ("BitwiseAnd", ["bytes", "mask"], ["low"], {}),
        ("BitShift", ["bytes", "shift"], ["high"], {"direction": "RIGHT"}),
        ("Concat", ["low", "high"], ["numbers"], {"axis": -1}),
        ("Split", ["numbers", "parts"], ["steps", "zeros", "rest"][: len(constants["parts"])], {"axis": -1}),
        ("Gather", ["scales", lookup.input[1]], ["halves"], {}),
        ("Cast", ["halves"], ["floats"], {"to": TensorProto.FLOAT}),
        ("DequantizeLinear", ["steps", "floats", "zeros"], [lookup.output[0]], {"axis": -1, "block_size": BLOCK}),
    ]

    def own(names: list[str]) -> list[str]:
        return [name if name in (lookup.input[1], lookup.output[0]) else f"{lookup.name}_{name}" for name in names]

    return (
        [helper.make_node(kind, own(read), own(made), *own(made[:1]), **how) for kind, read, made, how in nodes],
        [numpy_helper.from_array(value.numpy(), *own([name])) for name, value in constants.items()],
    )
