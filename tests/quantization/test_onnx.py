"""The ONNX backend: what onnxruntime answers is what PyTorch answers, for every shape of student and teacher."""

import logging
import math
import random
from collections import Counter

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from tkd_hf import TKDConfig, TKDForSequenceClassification
from tkd_hf.errors import InputError
from tkd_hf.quantization import onnx as backend

from ..conftest import TEXTS, WORDS, build_teacher


runtime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

SMALL = {"vocab_size": len(WORDS), "initializer_range": 0.5, "num_labels": 2}


def uneven():
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 2, "heads_per_layer": [2, 1], "intermediate_sizes": [12, 5], "head_dim": 8}
    return TKDForSequenceClassification(
        TKDConfig(hidden_size=16, num_attention_heads=2, embedding_size=8, max_position_embeddings=40, **shape, **SMALL)
    )


def without_segments():
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "hidden_size": 16}
    return TKDForSequenceClassification(
        TKDConfig(type_vocab_size=0, position_embedding_type="sinusoidal", **shape, **SMALL)
    )


def roberta():
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return RobertaForSequenceClassification(RobertaConfig(max_position_embeddings=40, pad_token_id=0, **shape, **SMALL))


def bert():
    """Of one layer, as the others: in four random ones a rounded digit grows into another answer."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return BertForSequenceClassification(BertConfig(max_position_embeddings=32, **shape, **SMALL))


def distilbert():
    torch.manual_seed(0)
    shape = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 8}
    return DistilBertForSequenceClassification(DistilBertConfig(**shape, **SMALL))


def tagger():
    return build_teacher(("B-X", "I-X", "O"), kind=BertForTokenClassification)


MODELS = {
    "uneven": uneven,
    "tagger": tagger,
    "bert": bert,
    "no segments": without_segments,
    "roberta": roberta,
    "distilbert": distilbert,
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in list(MODELS)[2:]]  # some seconds each


def no_examples():
    raise AssertionError("nothing is to be calibrated")


def answers(model, name, batch):
    takes = {key: value for key, value in batch.items() if key != "token_type_ids" or name != "distilbert"}
    with torch.no_grad():
        return model(**takes).logits.numpy()


def run(file, batch):
    session = runtime.InferenceSession(str(file))
    inputs = {tensor.name: batch[tensor.name].numpy() for tensor in session.get_inputs()}
    return session.run(["logits"], inputs)[0]


def rounded_off(model, name, tokenizer, file):
    """How far logits are from the model's, as a share of these: of so many texts that no single one decides."""
    chance = random.Random(0)
    texts = [" ".join(chance.choices(WORDS[5:], k=chance.randint(1, 12))) for _ in range(60)]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    expected = answers(model, name, batch)
    return np.abs(run(file, batch) - expected).mean() / np.abs(expected).mean()


@pytest.mark.parametrize("name", ["uneven", "tagger", *SLOW])
def test_onnxruntime_answers_as_pytorch_does(tmp_path, tokenizer, name):
    """For batches of any size and length, padded or not, up to more tokens than it was exported with."""
    model = MODELS[name]().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    details = backend.quantize(model, tokenizer, tmp_path, weights="int8-dynamic", calibration=no_examples)
    assert details == {"weights": "int8", "activations": "int8 dynamic"}
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert {"config.json", "tokenizer.json"} <= {path.name for path in tmp_path.iterdir()}
    assert {path.name for path in (tmp_path / "onnx").iterdir()} == {"model.onnx", "model_quantized.onnx"}
    assert (
        b"site-packages" not in (tmp_path / "onnx" / "model.onnx").read_bytes()
    )  # whose folders are nobody's business
    model.eval()
    for texts in (TEXTS, TEXTS[:1], TEXTS[2:5], [" ".join(["good film"] * 14)]):
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        expected = answers(model, name, batch)
        np.testing.assert_allclose(run(tmp_path / "onnx" / "model.onnx", batch), expected, atol=1e-4)
    assert 0 < rounded_off(model, name, tokenizer, tmp_path / "onnx" / "model_quantized.onnx") < 0.15


@pytest.mark.parametrize("name", ["uneven", "tagger", *SLOW])
def test_embeddings_in_int4(tmp_path, tokenizer, name):
    """Words and positions take half a byte each, and a block of them 2.5 more; token types stay as they are."""
    model = MODELS[name]().eval()
    details = backend.quantize(
        model, tokenizer, tmp_path, weights="int8-dynamic-int4-embeddings", calibration=no_examples
    )
    assert details == {"weights": "int8, embeddings int4", "activations": "int8 dynamic"}
    graph = onnx.load(tmp_path / "onnx" / "model_quantized.onnx")
    width = model.get_input_embeddings().weight.shape[1]
    kept = {tensor.name: tensor for tensor in graph.graph.initializer}
    found = [kept[node.input[0]] for node in graph.graph.node if node.op_type == "Gather" and node.input[0] in kept]
    words = {table.data_type: [*table.dims][1] for table in found if table.dims[0] == len(WORDS)}
    blocks = math.ceil(width / 32)
    assert words == {onnx.TensorProto.UINT8: math.ceil((width + blocks) / 2), onnx.TensorProto.FLOAT16: blocks}
    assert not any(len(table.raw_data) == len(WORDS) * width * 4 for table in kept.values())
    assert {node.domain for node in graph.graph.node if "embed" in node.name} <= {""}  # any runtime has its operators
    if model.config.to_dict().get("type_vocab_size"):
        types = [table for table in kept.values() if list(table.dims) == [model.config.type_vocab_size, width]]
        assert {table.data_type for table in types} == {onnx.TensorProto.FLOAT}
    assert 0 < rounded_off(model, name, tokenizer, tmp_path / "onnx" / "model_quantized.onnx") < 0.3
    assert logging.root.level == logging.WARNING  # whose settings are nobody else's business


@pytest.mark.parametrize("weights", ["int8-dynamic", "int8-dynamic-int4-embeddings"])
def test_what_onnxruntime_makes_of_a_graph(tmp_path, tokenizer, weights):
    """One operator of each attention, and none of an addition and the norm after it, which is slow."""
    model = uneven().eval()
    backend.quantize(model, tokenizer, tmp_path, weights=weights, calibration=no_examples)
    for name in ("model.onnx", "model_quantized.onnx"):
        options = runtime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        runtime.InferenceSession(str(tmp_path / "onnx" / name), options)
        kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
        assert kinds["Attention"] == 2
        assert kinds["LayerNormalization"] == 5
        assert kinds["SkipLayerNormalization"] == 0


def test_float32_is_one_file(tmp_path, tokenizer, teacher):
    details = backend.quantize(teacher, tokenizer, tmp_path, weights="float32", calibration=no_examples)
    assert details == {"weights": "float32", "activations": "float32"}
    assert [path.name for path in (tmp_path / "onnx").iterdir()] == ["model.onnx"]


def test_a_graph_that_answers_otherwise_is_refused(tmp_path, tokenizer, teacher, monkeypatch):
    """As it does with dropout."""
    monkeypatch.setattr(backend, "TOLERANCE", -1.0)
    with pytest.raises(InputError, match=r"BertForSequenceClassification answers otherwise in ONNX than in PyTorch"):
        backend.export(teacher, tokenizer, tmp_path / "model.onnx")


def test_what_cannot_be_exported_is_named(tmp_path, tokenizer, teacher, monkeypatch):
    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        return {"logits": torch.zeros(int(input_ids.sum()))}

    monkeypatch.setattr(type(teacher), "forward", forward)
    with pytest.raises(InputError, match=r"BertForSequenceClassification \(bert\) cannot be exported to ONNX: "):
        backend.export(teacher, tokenizer, tmp_path / "model.onnx")
