"""optimum-quanto: weights of 8 bits, saved, loaded again by the package and by quanto's own class."""

import importlib.util

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from tkd_hf import InputError, optional_dependencies
from tkd_hf.evaluation.runners import load_runner
from tkd_hf.model_loading import load_classifier, load_encoder, quantized_by
from tkd_hf.quantization.quanto import load, quantize

from ..conftest import build_teacher, read_json
from ..training import logits_of_texts, student_of
from .test_bitsandbytes import UNEVEN, small


quanto = pytest.importorskip("optimum.quanto")


def expected(linear, states):
    """A linear layer with weights of 8 bits, by hand: each row in 127 steps either side of 0."""
    scales = linear.weight.abs().amax(dim=1, keepdim=True) / 127
    return torch.nn.functional.linear(states, (linear.weight / scales).round() * scales, linear.bias)


@pytest.mark.parametrize("fields", [{}, UNEVEN], ids=["even", "uneven"])
def test_saved_and_loaded_again(tmp_path, tokenizer, fields):
    model = small(**fields)
    before = logits_of_texts(model, tokenizer)
    assert quantize(model, tokenizer, tmp_path) == {"weights": "int8"}
    assert torch.equal(logits_of_texts(model, tokenizer), before)  # itself it stays as it was
    assert quantized_by(model) is None
    loaded = load(tmp_path)
    assert (quantized_by(loaded), loaded.training) == ("quanto", False)
    kinds = {name: type(module).__name__ for name, module in loaded.named_modules()}
    assert sum(kind == "QLinear" for kind in kinds.values()) == 12
    assert kinds["dense"] == kinds["classifier"] == "Linear"
    states = torch.randn(5, 64)
    query = loaded.tkd.layers[0].attention.query
    torch.testing.assert_close(query(states), expected(model.tkd.layers[0].attention.query, states))
    logits = logits_of_texts(loaded, tokenizer)
    assert 0 < (logits - before).abs().max() < 0.02
    assert torch.equal(logits_of_texts(load_classifier(str(tmp_path)), tokenizer), logits)

    class Model(quanto.QuantizedTransformersModel):
        auto_class = AutoModelForSequenceClassification

    assert torch.equal(logits_of_texts(Model.from_pretrained(tmp_path), tokenizer), logits)


def test_runner(tmp_path, tokenizer):
    model = small(vocab_size=15, hidden_size=128, intermediate_size=512)
    (tmp_path / "quanto").mkdir()
    quantize(model, tokenizer, tmp_path / "quanto")
    model.save_pretrained(tmp_path / "float")
    tokenizer.save_pretrained(tmp_path / "float")
    run, full = load_runner(str(tmp_path / "quanto")), load_runner(str(tmp_path / "float"))
    assert run.backend == "quanto"
    assert run.dtype.startswith("int8")
    assert run.megabytes < 0.5 * full.megabytes
    batch = tokenizer(["good film", "dull"], padding=True, return_tensors="pt")
    assert 0 < (run(batch) - full(batch)).abs().max() < 0.02


def test_stock_models_and_taggers(tmp_path, teacher, tagger, tokenizer):
    for name, model in (("stock", teacher), ("tagger", student_of(tagger))):
        (tmp_path / name).mkdir()
        quantize(model, tokenizer, tmp_path / name)
        loaded = load_classifier(str(tmp_path / name))
        assert loaded.config.id2label == model.config.id2label
        assert logits_of_texts(loaded, tokenizer).shape == logits_of_texts(model, tokenizer).shape
        floats = [name for name, module in loaded.named_modules() if type(module) is torch.nn.Linear]
        assert "classifier" in floats
    assert read_json(tmp_path / "stock" / "config.json")["quantization_config"]["quant_method"] == "quanto"


def test_a_model_that_was_loaded_is_saved_by_the_names_that_are_read(tmp_path, teacher, tokenizer):
    """Transformers saves what it loaded by older names of its own, such as LayerNorm.gamma."""
    (tmp_path / "int8").mkdir()
    teacher.save_pretrained(tmp_path / "stock")
    quantize(load_classifier(str(tmp_path / "stock")), tokenizer, tmp_path / "int8")
    close = logits_of_texts(load_classifier(str(tmp_path / "int8")), tokenizer) - logits_of_texts(teacher, tokenizer)
    assert close.abs().mean() < 0.1


def test_transformers_does_not_make_up_what_it_cannot_read(tmp_path, tokenizer):
    quantize(small(), tokenizer, tmp_path)
    with pytest.raises(ValueError, match=r"load them with tkd_hf\.quantization\.quanto\.load"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="cannot read weights that optimum-quanto saved"):
        load_encoder(str(tmp_path))


def test_mistakes(tmp_path, tokenizer, monkeypatch):
    teacher = build_teacher()
    with pytest.raises(InputError, match="no weights='nf4' here; choose among int8"):
        quantize(teacher, tokenizer, tmp_path, weights="nf4")
    quantize(teacher, tokenizer, tmp_path)
    with pytest.raises(InputError, match="is quantized already, by quanto"):
        quantize(load(tmp_path), tokenizer, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    lost = stored.pop("bert.encoder.layer.0.attention.self.query.weight._data")
    assert lost.dtype == torch.int8
    save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 weights, the first one bert\.encoder\.layer\.0\.attention"):
        load(tmp_path)
    there = importlib.util.find_spec
    monkeypatch.setattr(
        optional_dependencies, "find_spec", lambda name: None if name == "optimum.quanto" else there(name)
    )
    for call in (lambda: load(tmp_path), lambda: quantize(teacher, tokenizer, tmp_path)):
        with pytest.raises(
            InputError, match=r'needs optimum\.quanto, which is not installed: pip install "tkd-hf\[quanto\]"'
        ):
            call()
