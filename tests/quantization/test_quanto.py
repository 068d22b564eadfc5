"""optimum-quanto: weights in 8 bits, saved, and loaded by tkd_hf and by quanto's own class."""

import importlib.util
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from tkd_hf import InputError
from tkd_hf.core import optional_dependencies
from tkd_hf.inference.runners import load_runner
from tkd_hf.models.loading import load_classifier, load_encoder
from tkd_hf.models.quantized import quantized_by
from tkd_hf.quantization.quanto import Quanto, load

from ..factories import build_teacher, build_tokenizer, logits_of_texts, read_json, student_of
from .test_bitsandbytes import UNEVEN, small_model


quanto = pytest.importorskip("optimum.quanto")
quantize = Quanto().quantize


def int8_linear(linear, states):
    """Compute a linear layer with weights rounded by hand to 8 bits: per row, 127 steps on either side of 0."""
    scales = linear.weight.abs().amax(dim=1, keepdim=True) / 127
    return torch.nn.functional.linear(states, (linear.weight / scales).round() * scales, linear.bias)


@pytest.fixture(scope="module", params=[{}, UNEVEN], ids=["even", "uneven"])
def quantized(request, tmp_path_factory):
    """Quantize a model into a folder; return it, its logits before, and what was loaded from the folder."""
    model, folder = small_model(**request.param), tmp_path_factory.mktemp("quanto")
    before = logits_of_texts(model, build_tokenizer())
    assert quantize(model, build_tokenizer(), folder) == {"weights": "int8"}
    loaded = load(folder)
    logits = logits_of_texts(loaded, build_tokenizer())
    return SimpleNamespace(model=model, before=before, folder=folder, loaded=loaded, logits=logits)


def test_quantizing_leaves_the_given_model_unchanged(quantized, tokenizer):
    assert torch.equal(logits_of_texts(quantized.model, tokenizer), quantized.before)
    assert quantized_by(quantized.model) is None


def test_all_linear_layers_but_the_head_are_quantized(quantized):
    loaded = quantized.loaded
    assert (quantized_by(loaded), loaded.training) == ("quanto", False)
    kinds = {name: type(module).__name__ for name, module in loaded.named_modules()}
    assert sum(kind == "QLinear" for kind in kinds.values()) == 12
    assert kinds["dense"] == kinds["classifier"] == "Linear"


def test_a_quantized_layer_equals_weights_rounded_by_hand(quantized):
    states = torch.randn(5, 64)
    query, float_query = (model.tkd.layers[0].attention.query for model in (quantized.loaded, quantized.model))
    torch.testing.assert_close(query(states), int8_linear(float_query, states))
    assert 0 < (quantized.logits - quantized.before).abs().max() < 0.02


def test_a_saved_folder_gives_the_same_logits_with_tkd_and_with_quanto(quantized, tokenizer):
    class QuantizedClassifier(quanto.QuantizedTransformersModel):
        auto_class = AutoModelForSequenceClassification

    for model in (load_classifier(str(quantized.folder)), QuantizedClassifier.from_pretrained(quantized.folder)):
        assert torch.equal(logits_of_texts(model, tokenizer), quantized.logits)


def test_runner_reports_backend_dtype_and_size(tmp_path, tokenizer):
    model = small_model(vocab_size=15, hidden_size=128, intermediate_size=512)
    (tmp_path / "quanto").mkdir()
    quantize(model, tokenizer, tmp_path / "quanto")
    model.save_pretrained(tmp_path / "float")
    tokenizer.save_pretrained(tmp_path / "float")
    runner, float_runner = load_runner(str(tmp_path / "quanto")), load_runner(str(tmp_path / "float"))
    assert runner.backend == "quanto"
    assert runner.dtype.startswith("int8")
    assert runner.megabytes < 0.5 * float_runner.megabytes
    batch = tokenizer(["good film", "dull"], padding=True, return_tensors="pt")
    assert 0 < (runner(batch) - float_runner(batch)).abs().max() < 0.02


def test_stock_models_and_token_classifiers_can_be_quantized(tmp_path, teacher, tagger, tokenizer):
    for name, model in (("stock", teacher), ("tagger", student_of(tagger))):
        (tmp_path / name).mkdir()
        quantize(model, tokenizer, tmp_path / name)
        loaded = load_classifier(str(tmp_path / name))
        assert loaded.config.id2label == model.config.id2label
        assert logits_of_texts(loaded, tokenizer).shape == logits_of_texts(model, tokenizer).shape
        floats = [name for name, module in loaded.named_modules() if type(module) is torch.nn.Linear]
        assert "classifier" in floats
    assert read_json(tmp_path / "stock" / "config.json")["quantization_config"]["quant_method"] == "quanto"


def test_stock_model_loaded_from_disk_is_saved_with_names_that_load_reads(tmp_path, teacher, tokenizer):
    """transformers may save a model that it loaded with older parameter names, such as LayerNorm.gamma."""
    (tmp_path / "int8").mkdir()
    teacher.save_pretrained(tmp_path / "stock")
    quantize(load_classifier(str(tmp_path / "stock")), tokenizer, tmp_path / "int8")
    quantized = load_classifier(str(tmp_path / "int8"))
    difference = logits_of_texts(quantized, tokenizer) - logits_of_texts(teacher, tokenizer)
    assert difference.abs().mean() < 0.1


def test_from_pretrained_refuses_the_folder_instead_of_using_random_weights(tmp_path, tokenizer):
    quantize(small_model(), tokenizer, tmp_path)
    with pytest.raises(ValueError, match=r"load them with tkd_hf\.quantization\.quanto\.load"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="cannot read weights that optimum-quanto saved"):
        load_encoder(str(tmp_path))


def test_wrong_schemes_damaged_folders_and_a_missing_package_are_refused(tmp_path, tokenizer, monkeypatch):
    teacher = build_teacher()
    with pytest.raises(InputError, match="no scheme weights='nf4' here; choose among int8"):
        quantize(teacher, tokenizer, tmp_path, weights="nf4")
    quantize(teacher, tokenizer, tmp_path)
    with pytest.raises(InputError, match="is quantized already, by quanto"):
        quantize(load(tmp_path), tokenizer, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    missing_weight = stored.pop("bert.encoder.layer.0.attention.self.query.weight._data")
    assert missing_weight.dtype == torch.int8
    save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 weights, such as bert\.encoder\.layer\.0\.attention"):
        load(tmp_path)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        optional_dependencies, "find_spec", lambda name: None if name == "optimum.quanto" else find_spec(name)
    )
    for call in (lambda: load(tmp_path), lambda: quantize(teacher, tokenizer, tmp_path)):
        with pytest.raises(
            InputError, match=r'needs optimum\.quanto, which is not installed: pip install "tkd-hf\[quanto\]"'
        ):
            call()
