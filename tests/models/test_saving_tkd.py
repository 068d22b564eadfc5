"""Saved models: loading with the Auto classes, as a pipeline, and as remote code without tkd-hf."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    pipeline,
)

from tkd_hf import TKDConfig, TKDForMaskedLM, TKDForSequenceClassification, TKDForTokenClassification, TKDModel

from ..factories import build_tokenizer
from .test_modeling_tkd import SHAPES, padded, sentence, tiny


AUTO_CLASSES = {
    TKDModel: AutoModel,
    TKDForSequenceClassification: AutoModelForSequenceClassification,
    TKDForTokenClassification: AutoModelForTokenClassification,
    TKDForMaskedLM: AutoModelForMaskedLM,
}


def assert_same_weights(model, expected):
    weights, expected_weights = model.state_dict(), expected.state_dict()
    assert weights.keys() == expected_weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected_weights[name], rtol=0, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_and_head_loads_with_its_auto_class(shape, tmp_path):
    inputs = padded(sentence(6), 2, 0)
    for model_class, auto_class in AUTO_CLASSES.items():
        model = tiny(model_class, **SHAPES[shape])
        folder = tmp_path / model_class.__name__
        model.save_pretrained(folder)
        loaded = auto_class.from_pretrained(folder)
        assert type(loaded) is model_class
        assert_same_weights(loaded, model)
        with torch.no_grad():
            torch.testing.assert_close(loaded(**inputs)[0], model(**inputs)[0], rtol=0, atol=1e-6)
    assert type(AutoConfig.from_pretrained(folder)) is TKDConfig


def test_saved_folder_contains_the_source_files(tmp_path):
    tiny().save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == {"configuration_tkd.py", "layers_tkd.py", "modeling_tkd.py"}


def test_saved_classifier_loads_as_a_bare_encoder(tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path)
    assert_same_weights(AutoModel.from_pretrained(tmp_path), model.tkd)


def test_pipeline_classifies_the_same_alone_and_in_a_batch(tmp_path):
    build_tokenizer().save_pretrained(tmp_path)
    tiny(num_labels=2, id2label={0: "negative", 1: "positive"}).save_pretrained(tmp_path)
    classify = pipeline("text-classification", model=str(tmp_path))
    texts = ["a fine film", "dull"]
    predictions = [classify(text)[0] for text in texts]
    assert {prediction["label"] for prediction in predictions} <= {"negative", "positive"}
    for prediction, in_batch in zip(predictions, classify(texts, batch_size=2), strict=True):
        assert in_batch["label"] == prediction["label"]
        assert in_batch["score"] == pytest.approx(prediction["score"], abs=1e-5)


def test_remote_code_loads_and_saves_without_the_package(tmp_path):
    student = tiny(heads_per_layer=[4, 1, 3])
    student.save_pretrained(tmp_path / "student")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    script = Path(__file__).with_name("load_without_package.py")
    process = subprocess.run(
        [sys.executable, "-P", script, tmp_path / "student", tmp_path / "saved"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    names, logits = process.stdout.splitlines()[-2:]
    module, model_class, encoder_class = names.split()
    assert module.startswith("transformers_modules.")
    assert (model_class, encoder_class) == ("TKDForSequenceClassification", "TKDModel")
    expected = student(torch.tensor([[2, 5, 6, 3]])).logits
    torch.testing.assert_close(torch.tensor(json.loads(logits)), expected, rtol=0, atol=1e-5)
