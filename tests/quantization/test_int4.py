"""Embeddings in 4 bits: what is packed is what is looked up."""

import numpy as np
import pytest
import torch

from tkd_hf.quantization.int4 import dequantized_rows, pack_lookup_tables, pack_table


@pytest.mark.parametrize("width", [1, 2, 31, 32, 33, 64, 65, 384])
def test_what_is_looked_up_is_what_was_rounded(width):
    """To the last bit: by an ONNX graph of one lookup, in rows of any width, of one or two blocks or with a rest."""
    runtime = pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    torch.manual_seed(0)
    table = torch.randn(9, width) * torch.logspace(-9, 3, 9)[:, None]
    table[4] = 0
    ids, found = (
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in [("ids", TensorProto.INT64, ["a", "b"]), ("found", TensorProto.FLOAT, None)]
    )
    lookup = helper.make_node("Gather", ["table", "ids"], ["found"], "words")
    graph = helper.make_graph([lookup], "lookup", [ids], [found], [numpy_helper.from_array(table.numpy(), "table")])
    names = pack_lookup_tables(graph, ["words"])
    assert {node.name for node in graph.node if node.op_type == "Gather"} == {*names}
    assert "table" not in {tensor.name for tensor in graph.initializer}
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    asked = np.array([[0, 8, 4], [3, 3, 7]])
    (answer,) = runtime.InferenceSession(model.SerializeToString()).run(None, {"ids": asked})
    assert np.array_equal(answer, dequantized_rows(table)[asked].numpy())


def test_bytes_by_hand():
    """The lower bits hold the steps from the left, the higher ones go on where they end, and with the zero."""
    table = torch.tensor([[-1.0, 0.0, 14.0], [0.0, 7.5, 3.0]])
    rows, scales = pack_table(table)
    # steps 0 1 15 and the zero 1; then 0 15 6 and the zero 0
    assert rows.tolist() == [[0 | 15 << 4, 1 | 1 << 4], [0 | 6 << 4, 15 | 0 << 4]]
    assert scales.tolist() == [[1.0], [0.5]]
    assert scales.dtype == torch.float16
    assert torch.equal(dequantized_rows(table), table)
