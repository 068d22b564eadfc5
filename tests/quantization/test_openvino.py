"""The OpenVINO backend: folders that optimum-intel loads by itself, for students and teachers of every shape."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoConfig, BertForTokenClassification

from tkd_hf import TKDConfig, TKDForSequenceClassification, student_from_teacher
from tkd_hf.core.errors import InputError
from tkd_hf.inference.runners import load_runner
from tkd_hf.quantization.openvino import OpenVINO

from ..factories import TEXTS, WORDS, build_teacher


intel = pytest.importorskip("optimum.intel")


def uneven_student():
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 2, "heads_per_layer": [2, 1], "intermediate_sizes": [12, 5], "head_dim": 8}
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "embedding_size": 8, "vocab_size": len(WORDS)}
    return TKDForSequenceClassification(TKDConfig(**sizes, **shape, initializer_range=0.5, num_labels=2)).eval()


def quantize(model, tokenizer, folder, weights):
    def calibration():
        assert weights in OpenVINO.calibrated_schemes
        return [dict(tokenizer(text, return_tensors="pt")) for text in TEXTS]

    return OpenVINO().quantize(model, tokenizer, folder, weights=weights, calibration=calibration)


def error_and_size(folder, model, tokenizer):
    """Return the mean error of the folder's logits, and the mean size of the model's logits, at real tokens."""
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**batch).logits
    logits = load_runner(str(folder))(dict(batch))
    if expected.dim() == 3:
        real = batch["attention_mask"].bool()
        expected, logits = expected[real], logits[real]
    return (logits - expected).abs().mean(), expected.abs().mean()


def test_int8_scheme_quantizes_weights_of_a_token_classifier(tmp_path, tokenizer):
    model = student_from_teacher(build_teacher(("B-X", "I-X", "O"), kind=BertForTokenClassification), layers=[0])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    details = quantize(model.eval(), tokenizer, tmp_path, "int8")
    assert details == {"weights": "int8", "activations": "float32"}
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert AutoConfig.from_pretrained(tmp_path).id2label == model.config.id2label
    error, size = error_and_size(tmp_path, model, tokenizer)
    assert 0 < error < 0.05 * size
    assert "uint8" in load_runner(str(tmp_path)).dtype


def test_int8_static_scheme_quantizes_activations(tmp_path, tokenizer):
    model = uneven_student()
    details = quantize(model, tokenizer, tmp_path, "int8-static")
    assert details == {"weights": "int8", "activations": "int8 static"}
    error, size = error_and_size(tmp_path, model, tokenizer)
    assert 0 < error < 0.3 * size


def test_float32_scheme_keeps_the_logits_of_a_teacher(tmp_path, tokenizer, teacher):
    details = quantize(teacher, tokenizer, tmp_path, "float32")
    assert details == {"weights": "float32", "activations": "float32"}
    assert error_and_size(tmp_path, teacher, tokenizer)[0] < 1e-5


PROGRAM_WITHOUT_TKD = """
import sys
from optimum.intel import OVModelForSequenceClassification
from transformers import AutoTokenizer
model = OVModelForSequenceClassification.from_pretrained(sys.argv[1], trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
print(*model(**tokenizer(sys.argv[2], return_tensors="pt")).logits[0].tolist())
assert "tkd_hf" not in sys.modules
"""


def test_optimum_loads_the_folder_without_tkd(tmp_path, tokenizer):
    quantize(uneven_student(), tokenizer, tmp_path, "int8")
    command = [sys.executable, "-c", PROGRAM_WITHOUT_TKD, tmp_path, TEXTS[0]]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    logits = [float(value) for value in process.stdout.splitlines()[-1].split()]
    expected = load_runner(str(tmp_path))(dict(tokenizer(TEXTS[0], return_tensors="pt")))[0]
    # OpenVINO computes in bfloat16 by default if the processor supports it, hence the tolerance.
    np.testing.assert_allclose(logits, expected.numpy(), atol=0.05)


def test_model_that_optimum_cannot_export_is_named(tmp_path, tokenizer, teacher, monkeypatch):
    from optimum.exporters.tasks import TasksManager

    monkeypatch.delitem(TasksManager._LIBRARY_TO_SUPPORTED_MODEL_TYPES["transformers"], "bert")
    with pytest.raises(InputError, match="BertForSequenceClassification cannot be exported to OpenVINO: "):
        quantize(teacher, tokenizer, tmp_path, "int8")


def test_telemetry_of_openvino_and_nncf_is_disabled(tmp_path, tokenizer, monkeypatch):
    """Under pytest, NNCF never reports its use, so it is tested in a process of its own."""
    telemetry = pytest.importorskip("openvino_telemetry")
    monkeypatch.delenv("CI", raising=False)
    quantize(uneven_student(), tokenizer, tmp_path, "int8")
    assert not telemetry.Telemetry().consent
    assert "CI" not in os.environ
    code = (
        "from tkd_hf.quantization import load_backend; load_backend('openvino');"
        "from nncf.telemetry.wrapper import telemetry; print(type(telemetry).__name__)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.split()[-1] == "MagicMock"
