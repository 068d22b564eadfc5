"""The ONNX backend: onnxruntime returns the logits of PyTorch, for students and teachers of every shape."""

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
from tkd_hf.core.errors import InputError
from tkd_hf.quantization import onnx as backend
from tkd_hf.quantization.onnx import ONNX, ONNXRunner

from ..factories import TEXTS, WORDS, build_teacher, student_of


runtime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

SMALL = {"vocab_size": len(WORDS), "initializer_range": 0.5, "num_labels": 2}


def uneven_student():
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 2, "heads_per_layer": [2, 1], "intermediate_sizes": [12, 5], "head_dim": 8}
    return TKDForSequenceClassification(
        TKDConfig(hidden_size=16, num_attention_heads=2, embedding_size=8, max_position_embeddings=40, **shape, **SMALL)
    )


def student_without_token_types():
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
    """Build a BERT of a single layer: in several random layers a rounding error can grow to another prediction."""
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
    "uneven": uneven_student,
    "tagger": tagger,
    "bert": bert,
    "no token types": student_without_token_types,
    "roberta": roberta,
    "distilbert": distilbert,
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in list(MODELS)[2:]]  # each takes some seconds


def no_examples():
    raise AssertionError("ONNX must not ask for calibration examples")


def pytorch_logits(model, name, batch):
    inputs = {key: value for key, value in batch.items() if key != "token_type_ids" or name != "distilbert"}
    with torch.no_grad():
        return model(**inputs).logits.numpy()


def onnx_logits(file, batch):
    session = runtime.InferenceSession(str(file))
    inputs = {tensor.name: batch[tensor.name].numpy() for tensor in session.get_inputs()}
    return session.run(["logits"], inputs)[0]


def relative_error(model, name, tokenizer, file):
    """Return the mean error of the file's logits divided by the mean size of the model's, over 60 random texts."""
    generator = random.Random(0)
    texts = [" ".join(generator.choices(WORDS[5:], k=generator.randint(1, 12))) for _ in range(60)]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    expected = pytorch_logits(model, name, batch)
    return np.abs(onnx_logits(file, batch) - expected).mean() / np.abs(expected).mean()


@pytest.mark.parametrize("name", ["uneven", "tagger", *SLOW])
def test_onnxruntime_returns_the_logits_of_pytorch_for_any_batch(tmp_path, tokenizer, name):
    """Batches have other sizes and lengths than the exported one, with and without padding."""
    model = MODELS[name]().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    details = ONNX().quantize(model, tokenizer, tmp_path, weights="int8-dynamic", calibration=no_examples)
    assert details == {"weights": "int8", "activations": "int8 dynamic"}
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert {"config.json", "tokenizer.json"} <= {path.name for path in tmp_path.iterdir()}
    assert {path.name for path in (tmp_path / "onnx").iterdir()} == {"model.onnx", "model_quantized.onnx"}
    # The file must not contain paths of the machine that made it.
    assert b"site-packages" not in (tmp_path / "onnx" / "model.onnx").read_bytes()
    model.eval()
    for texts in (TEXTS, TEXTS[:1], TEXTS[2:5], [" ".join(["good film"] * 14)]):
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        expected = pytorch_logits(model, name, batch)
        np.testing.assert_allclose(onnx_logits(tmp_path / "onnx" / "model.onnx", batch), expected, atol=1e-4)
    assert 0 < relative_error(model, name, tokenizer, tmp_path / "onnx" / "model_quantized.onnx") < 0.15


@pytest.mark.parametrize("name", ["uneven", "tagger", *SLOW])
def test_int4_scheme_packs_word_embeddings_and_leaves_token_types_in_floats(tmp_path, tokenizer, name):
    """A packed number takes half a byte; each block of numbers takes half a byte for its zero and two for its scale."""
    model = MODELS[name]().eval()
    details = ONNX().quantize(
        model, tokenizer, tmp_path, weights="int8-dynamic-int4-embeddings", calibration=no_examples
    )
    assert details == {"weights": "int8, embeddings int4", "activations": "int8 dynamic"}
    graph = onnx.load(tmp_path / "onnx" / "model_quantized.onnx")
    width = model.get_input_embeddings().weight.shape[1]
    tensors = {tensor.name: tensor for tensor in graph.graph.initializer}
    lookups = [node for node in graph.graph.node if node.op_type == "Gather" and node.input[0] in tensors]
    tables = [tensors[node.input[0]] for node in lookups]
    word_tables = {table.data_type: [*table.dims][1] for table in tables if table.dims[0] == len(WORDS)}
    blocks = math.ceil(width / 32)
    assert word_tables == {onnx.TensorProto.UINT8: math.ceil((width + blocks) / 2), onnx.TensorProto.FLOAT16: blocks}
    assert not any(len(table.raw_data) == len(WORDS) * width * 4 for table in tensors.values())
    # Only standard operators, so that every runtime has them.
    assert {node.domain for node in graph.graph.node if "embed" in node.name} <= {""}
    if model.config.to_dict().get("type_vocab_size"):
        token_types = [table for table in tensors.values() if list(table.dims) == [model.config.type_vocab_size, width]]
        assert {table.data_type for table in token_types} == {onnx.TensorProto.FLOAT}
    assert 0 < relative_error(model, name, tokenizer, tmp_path / "onnx" / "model_quantized.onnx") < 0.3
    assert logging.root.level == logging.WARNING  # exporting must not change the settings of the root logger


@pytest.mark.parametrize("weights", ["int8-dynamic", "int8-dynamic-int4-embeddings"])
def test_onnxruntime_fuses_attention_but_not_additions_with_layer_norms(tmp_path, tokenizer, weights):
    """The fused attention is fast. The fused addition and layer norm is slower than the two operators."""
    model = uneven_student().eval()
    ONNX().quantize(model, tokenizer, tmp_path, weights=weights, calibration=no_examples)
    for name in ("model.onnx", "model_quantized.onnx"):
        options = runtime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        runtime.InferenceSession(str(tmp_path / "onnx" / name), options)
        operators = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
        assert operators["Attention"] == 2
        assert operators["LayerNormalization"] == 5
        assert operators["SkipLayerNormalization"] == 0


def test_float32_scheme_writes_a_single_onnx_file(tmp_path, tokenizer, teacher):
    details = ONNX().quantize(teacher, tokenizer, tmp_path, weights="float32", calibration=no_examples)
    assert details == {"weights": "float32", "activations": "float32"}
    assert [path.name for path in (tmp_path / "onnx").iterdir()] == ["model.onnx"]


def test_token_classifier_is_exported_although_it_computes_nothing_at_padding(tmp_path, tokenizer):
    student = student_of(build_teacher(("B-X", "I-X", "O"), kind=BertForTokenClassification))
    backend.export(student, tokenizer, tmp_path / "model.onnx")
    batch = tokenizer(["a film", "the story is good"], padding=True, return_tensors="pt")
    runner = ONNXRunner("student", student.config, tokenizer, tmp_path / "model.onnx")
    with torch.no_grad():
        expected = student(**batch).logits
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(runner(dict(batch))[real], expected[real], atol=1e-4, rtol=0)


def test_export_whose_logits_differ_from_pytorch_is_refused(tmp_path, tokenizer, teacher, monkeypatch):
    monkeypatch.setattr(backend, "TOLERANCE", -1.0)
    with pytest.raises(InputError, match="BertForSequenceClassification has other logits in ONNX than in PyTorch"):
        backend.export(teacher, tokenizer, tmp_path / "model.onnx")


def test_model_that_cannot_be_exported_to_onnx_is_named(tmp_path, tokenizer, teacher, monkeypatch):
    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        return {"logits": torch.zeros(int(input_ids.sum()))}

    monkeypatch.setattr(type(teacher), "forward", forward)
    with pytest.raises(InputError, match=r"BertForSequenceClassification \(bert\) cannot be exported to ONNX: "):
        backend.export(teacher, tokenizer, tmp_path / "model.onnx")
