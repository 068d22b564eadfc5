"""The OpenVINO backend: folders that optimum-intel loads by itself, for every shape of student and teacher."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoConfig, BertForTokenClassification

from tkd_hf import TKDConfig, TKDForSequenceClassification, student_from_teacher
from tkd_hf.errors import InputError
from tkd_hf.evaluation.runners import load_runner
from tkd_hf.quantization import openvino as backend

from ..conftest import TEXTS, WORDS, build_teacher


intel = pytest.importorskip("optimum.intel")


def uneven():
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 2, "heads_per_layer": [2, 1], "intermediate_sizes": [12, 5], "head_dim": 8}
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "embedding_size": 8, "vocab_size": len(WORDS)}
    return TKDForSequenceClassification(TKDConfig(**sizes, **shape, initializer_range=0.5, num_labels=2)).eval()


def quantized(model, tokenizer, folder, weights):
    def calibration():
        assert weights in backend.CALIBRATED_SCHEMES
        return [dict(tokenizer(text, return_tensors="pt")) for text in TEXTS]

    return backend.quantize(model, tokenizer, folder, weights=weights, calibration=calibration)


def distance(folder, model, tokenizer):
    """The mean distance of the logits, beside their mean size; of tokens, where there is no padding."""
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**batch).logits
    found = load_runner(str(folder))(dict(batch))
    if expected.dim() == 3:
        real = batch["attention_mask"].bool()
        expected, found = expected[real], found[real]
    return (found - expected).abs().mean(), expected.abs().mean()


def test_weights_in_int8(tmp_path, tokenizer):
    """Of a token classifier."""
    model = student_from_teacher(build_teacher(("B-X", "I-X", "O"), kind=BertForTokenClassification), layers=[0])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    details = quantized(model.eval(), tokenizer, tmp_path, "int8")
    assert details == {"weights": "int8", "activations": "float32"}
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert AutoConfig.from_pretrained(tmp_path).id2label == model.config.id2label
    apart, size = distance(tmp_path, model, tokenizer)
    assert 0 < apart < 0.05 * size
    assert "uint8" in load_runner(str(tmp_path)).dtype


def test_activations_too(tmp_path, tokenizer):
    model = uneven()
    details = quantized(model, tokenizer, tmp_path, "int8-static")
    assert details == {"weights": "int8", "activations": "int8 static"}
    apart, size = distance(tmp_path, model, tokenizer)
    assert 0 < apart < 0.3 * size


def test_float32_of_a_teacher(tmp_path, tokenizer, teacher):
    details = quantized(teacher, tokenizer, tmp_path, "float32")
    assert details == {"weights": "float32", "activations": "float32"}
    assert distance(tmp_path, teacher, tokenizer)[0] < 1e-5


ALONE = """
import sys
from optimum.intel import OVModelForSequenceClassification
from transformers import AutoTokenizer
model = OVModelForSequenceClassification.from_pretrained(sys.argv[1], trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
print(*model(**tokenizer(sys.argv[2], return_tensors="pt")).logits[0].tolist())
assert "tkd_hf" not in sys.modules
"""


def test_optimum_loads_it_without_us(tmp_path, tokenizer):
    quantized(uneven(), tokenizer, tmp_path, "int8")
    done = subprocess.run([sys.executable, "-c", ALONE, tmp_path, TEXTS[0]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours = load_runner(str(tmp_path))(dict(tokenizer(TEXTS[0], return_tensors="pt")))[0]
    # by default it computes in bfloat16 where the processor does
    np.testing.assert_allclose(
        [float(value) for value in done.stdout.splitlines()[-1].split()], ours.numpy(), atol=0.05
    )


def test_what_optimum_cannot_export_is_named(tmp_path, tokenizer, teacher, monkeypatch):
    from optimum.exporters.tasks import TasksManager

    monkeypatch.delitem(TasksManager._LIBRARY_TO_SUPPORTED_MODEL_TYPES["transformers"], "bert")
    with pytest.raises(InputError, match="BertForSequenceClassification cannot be exported to OpenVINO: "):
        quantized(teacher, tokenizer, tmp_path, "int8")


def test_nothing_is_reported_to_anyone(tmp_path, tokenizer, monkeypatch):
    """Within pytest NNCF is silent anyway, hence the process."""
    telemetry = pytest.importorskip("openvino_telemetry")
    monkeypatch.delenv("CI", raising=False)
    quantized(uneven(), tokenizer, tmp_path, "int8")
    assert not telemetry.Telemetry().consent
    assert "CI" not in os.environ
    code = (
        "from tkd_hf.quantization import load_backend; load_backend('openvino');"
        "from nncf.telemetry.wrapper import telemetry; print(type(telemetry).__name__)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split()[-1] == "MagicMock"
