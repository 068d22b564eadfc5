"""The losses against references computed by hand or by scipy, and their gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr
from scipy.special import softmax as scipy_softmax
from transformers.modeling_outputs import SequenceClassifierOutput as Output

from tkd_hf import DistillationTrainingArguments
from tkd_hf.objectives import OBJECTIVES, HardLoss, LogitDistillation
from tkd_hf.objectives.logits import bernoulli_divergence, categorical_divergence


SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


def arguments(**fields):
    return DistillationTrainingArguments("unused", report_to="none", use_cpu=True, **fields)


def random_logits(seed, shape=(5, 3)):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) * 3, rng.normal(size=shape) * 3


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_kl_over_classes_is_scipys_times_temperature_squared(temperature):
    student, teacher = random_logits(0)
    p, q = scipy_softmax(teacher / temperature, axis=-1), scipy_softmax(student / temperature, axis=-1)
    expected = rel_entr(p, q).sum(axis=-1).mean() * temperature**2
    actual = categorical_divergence(torch.tensor(student), torch.tensor(teacher), temperature)
    assert actual.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_kl_per_label_is_that_of_two_outcomes(temperature):
    student, teacher = random_logits(1)
    p, q = (1 / (1 + np.exp(-logits / temperature)) for logits in (teacher, student))
    expected = (rel_entr(p, q) + rel_entr(1 - p, 1 - q)).mean() * temperature**2
    actual = bernoulli_divergence(torch.tensor(student), torch.tensor(teacher), temperature)
    assert actual.item() == pytest.approx(expected, rel=1e-9)


def test_by_hand():
    """Teacher (½, ½), student (¼, ¾): KL = ½ ln 2 + ½ ln ⅔."""
    student, teacher = torch.tensor([[0.0, np.log(3)]]), torch.zeros(1, 2)
    expected = 0.5 * np.log(2) + 0.5 * np.log(2 / 3)
    assert categorical_divergence(student, teacher, 1.0).item() == pytest.approx(expected, rel=1e-6)


def test_gradient_by_hand():
    """The gradient of T² KL is T (softmax(s/T) - softmax(t/T)) / batch: Hinton et al. 2015, equation 2."""
    student, teacher = (torch.tensor(logits, requires_grad=True) for logits in random_logits(2))
    categorical_divergence(student, teacher, 2.0).backward()
    expected = 2 * ((student / 2).softmax(-1) - (teacher / 2).softmax(-1)) / len(student)
    torch.testing.assert_close(student.grad, expected.detach())


def test_gradients_by_finite_differences():
    student, teacher = (torch.tensor(logits, requires_grad=True) for logits in random_logits(3))
    teacher = teacher.detach()
    assert torch.autograd.gradcheck(lambda s: categorical_divergence(s, teacher, 2.0), student)
    assert torch.autograd.gradcheck(lambda s: bernoulli_divergence(s, teacher, 2.0), student)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.floats(0.5, 10))
def test_divergences_are_not_negative_and_zero_only_at_home(seed, temperature):
    student, teacher = map(torch.tensor, random_logits(seed))
    for divergence in (categorical_divergence, bernoulli_divergence):
        assert divergence(student, teacher, temperature) > 0
        assert divergence(teacher, teacher, temperature).abs() < 1e-12


def test_divergences_stay_finite_for_extreme_logits():
    extreme = torch.tensor([[1e4, -1e4]])
    for divergence in (categorical_divergence, bernoulli_divergence):
        assert torch.isfinite(divergence(extreme, -extreme, 1.0))


def test_logit_distillation_follows_the_problem_type():
    student, teacher = (Output(logits=torch.tensor(logits).float()) for logits in random_logits(4))
    args = arguments(temperature=3.0)
    by_type = {kind: LogitDistillation(args, kind)(student, teacher, {}) for kind in (SINGLE, MULTI, REGRESSION)}
    torch.testing.assert_close(by_type[SINGLE], categorical_divergence(student.logits, teacher.logits, 3.0))
    torch.testing.assert_close(by_type[MULTI], bernoulli_divergence(student.logits, teacher.logits, 3.0))
    torch.testing.assert_close(by_type[REGRESSION], (student.logits - teacher.logits).square().mean())


def test_logits_of_another_width_are_refused_rather_than_broadcast():
    objective = LogitDistillation(arguments(), REGRESSION)
    with pytest.raises(ValueError, match=r"of shape \(2, 3\), the teacher's of \(2, 1\)"):
        objective(Output(logits=torch.zeros(2, 3)), Output(logits=torch.zeros(2, 1)), {})


def test_the_hard_loss_is_that_of_transformers():
    from .. import conftest

    ids = torch.tensor([[2, 7, 9, 3], [2, 8, 9, 3]])
    for kind, labels, count in (
        (SINGLE, torch.tensor([1, 0]), 2),
        (MULTI, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]), 3),
        (REGRESSION, torch.tensor([0.5, -1.0]), 1),
    ):
        names = tuple("abc"[:count]) if count > 1 else ()
        model = conftest.build_teacher(names, problem_type=kind)
        output = model(input_ids=ids, labels=labels)
        torch.testing.assert_close(HardLoss(arguments(), kind)(output, None, {"labels": labels}), output.loss)


def test_label_smoothing_reaches_the_hard_loss():
    output, labels = Output(logits=torch.tensor([[2.0, -1.0]])), torch.tensor([0])
    smoothed = HardLoss(arguments(label_smoothing_factor=0.1), SINGLE)(output, None, {"labels": labels})
    log_probs = output.logits.log_softmax(-1)[0]
    assert smoothed.item() == pytest.approx(-(0.95 * log_probs[0] + 0.05 * log_probs[1]).item(), rel=1e-6)


def test_multi_hot_labels_for_single_label_training_are_refused():
    with pytest.raises(ValueError, match=r"torch.float32 .*problem_type='multi_label_classification'"):
        HardLoss(arguments(), SINGLE)(Output(logits=torch.zeros(1, 2)), None, {"labels": torch.tensor([[1.0, 0.0]])})


def test_every_objective_says_what_it_needs():
    for objective in OBJECTIVES.values():
        assert isinstance(objective.needs_teacher, bool)
        assert isinstance(objective.needs_labels, bool)
