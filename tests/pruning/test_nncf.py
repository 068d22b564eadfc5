import importlib.util

import pytest
import torch

from tkd_hf.errors import InputError
from tkd_hf.pruning import Schedule
from tkd_hf.pruning.nncf import NNCFMasks
from tkd_hf.pruning.unstructured import ElementPruner, ElementPruningCallback, Sparsity, sparsity_report

from ..conftest import TEXTS, build_teacher
from ..training import logits_of_texts, student_of


needs_nncf = pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="NNCF is not installed")


def masks_for(model, tokenizer):
    return NNCFMasks(model, tokenizer(TEXTS[:2], padding=True, return_tensors="pt"))


@needs_nncf
def test_layer_is_as_ours(tokenizer):
    ours, theirs = build_teacher(), build_teacher()
    ElementPruner(ours, Sparsity(0.5, "layer")).prune()
    pruner = ElementPruner(theirs, Sparsity(0.5, "layer"), masks_for(theirs, tokenizer))
    pruner.prune()
    torch.testing.assert_close(logits_of_texts(ours, tokenizer), logits_of_texts(theirs, tokenizer))
    assert set(sparsity_report(theirs).layers.values()) == {0.5}


@needs_nncf
def test_global_compares_in_proportion_to_the_norm(tokenizer):
    model = build_teacher()
    weights = ElementPruner(model, Sparsity(0.5)).weights
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    others = {name: tensor.clone() for name, tensor in model.state_dict().items() if name not in weights}
    ElementPruner(model, Sparsity(0.6), masks_for(model, tokenizer)).prune()

    sizes = {name: weight.abs() / weight.norm() for name, weight in before.items()}
    together = torch.cat([size.flatten() for size in sizes.values()])
    threshold = together.sort().values[int((len(together) - 1) * 0.6)]
    for name, weight in weights.items():
        assert torch.equal(weight, before[name] * (sizes[name] > threshold))
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in others.items())


@needs_nncf
def test_on_a_schedule_the_student_stays_an_ordinary_model(build, teacher, tokenizer, tmp_path):
    student = student_of(teacher)
    names = set(student.state_dict())
    trainer = build(model=student)
    pruner = ElementPruner(student, Sparsity(0.75), masks_for(student, tokenizer))
    trainer.add_callback(ElementPruningCallback(trainer, pruner, Schedule("cubic", num_prunings=2, end=0.5)))
    trainer.train()
    assert sparsity_report(student).share == pytest.approx(0.75, abs=2e-3)
    assert set(student.state_dict()) == names
    student.save_pretrained(tmp_path / "saved")
    loaded = type(student).from_pretrained(tmp_path / "saved")
    assert torch.equal(logits_of_texts(student, tokenizer), logits_of_texts(loaded, tokenizer))


@needs_nncf
def test_patterns_are_refused(teacher, tokenizer):
    with pytest.raises(InputError, match="NNCF knows no pattern='2:4'"):
        ElementPruner(teacher, Sparsity(pattern="2:4"), masks_for(teacher, tokenizer)).prune()


def test_without_nncf_the_extra_is_named(teacher, tokenizer, monkeypatch):
    monkeypatch.setattr("tkd_hf.optional_dependencies.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "tkd-hf\[openvino\]"'):
        masks_for(teacher, tokenizer)
