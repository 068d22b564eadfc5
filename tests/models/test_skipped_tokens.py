"""TKD skips the tokens that its output does not need: what gains from it, and what computes every token instead."""

import logging
from functools import partial

import pytest
import torch
from transformers import TrainingArguments, pipeline

from tkd_hf import (
    SoftLabels,
    TKDConfig,
    TKDForMaskedLM,
    TKDForSequenceClassification,
    TKDForTokenClassification,
    TKDModel,
)
from tkd_hf.inference.runners import PyTorchRunner
from tkd_hf.models.layers_tkd import Packing
from tkd_hf.models.signals import Recorder
from tkd_hf.pruning import Gates

from ..conftest import TEXTS
from ..factories import student_of


PADDED = {"input_ids": torch.tensor([[2, 5, 6, 7, 3], [2, 5, 3, 0, 0]]), "attention_mask": torch.ones(2, 5).long()}
PADDED["attention_mask"][1, 3:] = 0


def tiny(model_class=TKDForSequenceClassification):
    torch.manual_seed(0)
    shape = {"vocab_size": 10, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    return model_class(TKDConfig(**shape, intermediate_size=16, initializer_range=0.5)).eval()


@pytest.fixture
def shortcuts(monkeypatch):
    """Collect the calls in which both the padding and, in the last layer, all tokens but the first are skipped."""
    calls, first_tokens = [], Packing.first_tokens

    def recorded(packing, states):
        calls.append(packing)
        return first_tokens(packing, states)

    monkeypatch.setattr(Packing, "first_tokens", recorded)
    return calls


@pytest.fixture
def warnings(caplog):
    """Return a function that returns the warnings so far; each is logged again in every test."""
    logging.Logger.warning_once.cache_clear()
    return lambda: [record.message for record in caplog.records if "forward hook" in record.message]


@pytest.mark.parametrize(
    "model_class", [TKDModel, TKDForSequenceClassification, TKDForTokenClassification, TKDForMaskedLM]
)
def test_hooks_on_every_module_see_the_shape_of_the_batch_with_the_switch_on(model_class, warnings):
    model, shapes = tiny(model_class), {}
    with torch.no_grad():
        expected = model(**PADDED)[0]

    def record_shape(name, module, inputs, output):
        shapes[name] = (output[0] if isinstance(output, tuple) else output).shape[:2]

    for part in (model.base_model.embeddings, *model.base_model.layers):
        for name, module in part.named_modules(prefix=str(id(part))):
            module.register_forward_hook(partial(record_shape, name))
    model.base_model.compute_all_tokens = True
    with torch.no_grad():
        outputs = model(**PADDED)[0]
    assert len(shapes) > 20
    assert set(shapes.values()) == {(2, 5)}
    assert not warnings()
    if model_class is not TKDForSequenceClassification:
        real = PADDED["attention_mask"].bool()
        outputs, expected = outputs[real], expected[real]
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-5)


def test_a_hook_without_the_switch_is_warned_about_once_and_changes_nothing(warnings, shortcuts):
    model, shapes = tiny(), []
    with torch.no_grad():
        expected = model(**PADDED).logits
        model.register_forward_hook(lambda *_: None)
        model.tkd.register_forward_hook(lambda *_: None)  # hooks on whole models see the batch in any case
        model(**PADDED)
        assert not warnings()
        model.tkd.layers[0].register_forward_hook(lambda layer, inputs, output: shapes.append(output.shape))
        for _ in range(2):
            assert torch.equal(model(**PADDED).logits, expected)
    assert shapes == [(1, 8, 8), (1, 8, 8)]
    assert len(shortcuts) == 4
    (warning,) = warnings()
    assert warning.startswith("a TKDLayer inside TKDModel")
    assert "set model.base_model.compute_all_tokens = True" in warning


@pytest.mark.parametrize("outputs", ["output_hidden_states", "output_attentions"])
def test_requested_outputs_need_no_switch_and_do_not_slow_down_later_calls(outputs, warnings, shortcuts):
    model = tiny()
    model.set_attn_implementation("eager")
    plain = model(**PADDED).logits
    recorded = model(**PADDED, **{outputs: True})
    torch.testing.assert_close(recorded.logits, plain, rtol=0, atol=1e-5)
    assert len(shortcuts) == 1
    assert torch.equal(model(**PADDED).logits, plain)
    setattr(model.config, outputs, True)
    model(**PADDED)
    assert len(shortcuts) == 2
    assert not warnings()


@pytest.mark.parametrize("path", ["train", "evaluate", "label", "run", "pipeline"])
def test_every_way_to_run_a_classifier_skips_tokens(path, build, teacher, tokenizer, features, tmp_path, shortcuts):
    student = student_of(teacher)
    if path in ("train", "evaluate"):
        trainer = build(cached=True, model=student)
        shortcuts.clear()  # soft labels were computed
        getattr(trainer, path)()
    elif path == "label":
        SoftLabels.compute(student, tokenizer, features)
    elif path == "run":
        PyTorchRunner(student, tokenizer)(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    else:
        student.save_pretrained(tmp_path / "student")
        tokenizer.save_pretrained(tmp_path / "student")
        pipeline("text-classification", str(tmp_path / "student"))(TEXTS, batch_size=4)
    assert shortcuts


def test_an_exported_graph_computes_the_last_layer_for_one_token():
    program = torch.export.export(tiny(), (), PADDED)
    shapes = [node.meta["val"].shape[:2] for node in program.graph.nodes if node.target is torch.ops.aten.gelu.default]
    assert shapes == [(2, 5), (2, 1)]  # one GELU per layer


def test_recorder_and_gates_compute_every_token_and_restore_the_switch(shortcuts):
    model = tiny()
    record = Recorder(model, ["queries"])
    signals, _ = record(model, PADDED)
    assert [query.shape for query in signals.queries] == [(2, 5, 8)] * 2
    assert not shortcuts
    gates = Gates(model)
    record(model, PADDED)
    model(**PADDED)
    assert not shortcuts
    gates.remove()
    model(**PADDED)
    assert len(shortcuts) == 1


# newer versions of transformers renamed the option and warn about the old name
IS_RENAMED = hasattr(TrainingArguments, "activation_checkpointing")
CHECKPOINTING = "activation_checkpointing" if IS_RENAMED else "gradient_checkpointing"


@pytest.mark.parametrize("option", [{"neftune_noise_alpha": 5.0}, {CHECKPOINTING: True}])
def test_training_options_that_install_hooks_compute_every_token(option, build, shortcuts, warnings):
    """The noise of NEFTune depends on the shape of the batch, and dropout on the number of elements."""
    trainer = build(cached=True, **option)
    shortcuts.clear()
    trainer.train()
    assert not shortcuts
    trainer.evaluate()
    assert shortcuts
    assert not warnings()
