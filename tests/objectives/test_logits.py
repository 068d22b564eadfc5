"""Logit distillation: what is compared by problem type, how examples weigh, and what is scheduled."""

import numpy as np
import pytest
import torch

from tkd_hf.errors import InputError
from tkd_hf.objectives import LogitDistillation
from tkd_hf.objectives.divergences import bernoulli_divergence, categorical_divergence
from tkd_hf.signals import Signals


SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


def signals(seed, shape=(5, 3)) -> tuple[Signals, Signals]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(Signals(logits=3 * torch.randn(shape, generator=generator)) for _ in range(2))


def test_it_follows_the_problem_type():
    student, teacher = signals(4)
    by_type = {kind: LogitDistillation(kind, 3.0)(student, teacher, {}) for kind in (SINGLE, MULTI, REGRESSION)}
    torch.testing.assert_close(by_type[SINGLE], categorical_divergence(student.logits, teacher.logits, 3.0).mean())
    torch.testing.assert_close(by_type[MULTI], bernoulli_divergence(student.logits, teacher.logits, 3.0).mean())
    torch.testing.assert_close(by_type[REGRESSION], (student.logits - teacher.logits).square().mean())


def test_mse_of_logits_by_hand():
    student, teacher = Signals(logits=torch.tensor([[1.0, 2.0]])), Signals(logits=torch.tensor([[3.0, 1.0]]))
    for kind in (SINGLE, MULTI):
        assert LogitDistillation(kind, divergence="mse")(student, teacher, {}).item() == pytest.approx((4 + 1) / 2)


def test_the_divergence_chosen_is_the_one_computed():
    student, teacher = signals(5)
    for name in ("reverse_kl", "jensen_shannon"):
        expected = categorical_divergence(student.logits, teacher.logits, 2.0, name).mean()
        torch.testing.assert_close(LogitDistillation(SINGLE, 2.0, divergence=name)(student, teacher, {}), expected)


def test_the_temperature_moves_linearly():
    objective = LogitDistillation(SINGLE, 4.0, final_temperature=2.0)
    student, teacher = signals(6)
    for progress, temperature in ((0.0, 4.0), (0.25, 3.5), (1.0, 2.0)):
        objective.set_progress(progress)
        expected = categorical_divergence(student.logits, teacher.logits, temperature).mean()
        torch.testing.assert_close(objective(student, teacher, {}), expected)


def test_confidence_by_hand():
    """A teacher sure at ¾ and one at ½: the examples weigh ¾ and ½ in the mean."""
    teacher = torch.tensor([[np.log(3.0), 0.0], [0.0, 0.0]], dtype=torch.float32)
    student = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    each = categorical_divergence(student, teacher)
    weighted = LogitDistillation(SINGLE, confidence_weighting=True)(Signals(student), Signals(teacher), {})
    torch.testing.assert_close(weighted, (0.75 * each[0] + 0.5 * each[1]) / 2)
    each = bernoulli_divergence(student, teacher)
    weighted = LogitDistillation(MULTI, confidence_weighting=True)(Signals(student), Signals(teacher), {})
    torch.testing.assert_close(weighted, ((0.75 + 0.5) / 2 * each[0] + 0.5 * each[1]) / 2)


def test_scores_have_no_confidence():
    with pytest.raises(InputError, match=r"confidence_weighting=True .* regression.*; leave it out"):
        LogitDistillation(REGRESSION, confidence_weighting=True)


def test_tokens_labelled_minus_100_do_not_count_and_examples_weigh_the_same():
    student, teacher = signals(7, (2, 4, 3))
    labels = torch.tensor([[-100, 1, 2, -100], [-100, 0, -100, -100]])
    each = categorical_divergence(student.logits, teacher.logits, 2.0)
    expected = ((each[0, 1] + each[0, 2]) / 2 + each[1, 1]) / 2
    objective = LogitDistillation("token_classification", 2.0)
    torch.testing.assert_close(objective(student, teacher, {"labels": labels}), expected)
    unlabelled = {"attention_mask": torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])}
    expected = (each[0, :2].mean() + each[1].mean()) / 2
    torch.testing.assert_close(objective(student, teacher, unlabelled), expected)


def test_answers_already_selected_are_the_same():
    student, teacher = signals(8, (2, 4, 9))
    labels = torch.tensor([[-100, 1, 2, -100], [-100, 0, -100, -100]])
    objective = LogitDistillation("masked_lm", top_k=3)
    selected = Signals(logits=student.logits[labels != -100])
    expected = objective(student, teacher, {"labels": labels})
    torch.testing.assert_close(objective(selected, teacher, {"labels": labels}), expected)


def test_logits_of_another_width_are_refused_rather_than_broadcast():
    with pytest.raises(ValueError, match=r"shape \(2, 3\), the teacher's \(2, 1\); .*SoftLabels.attach"):
        LogitDistillation(REGRESSION)(Signals(torch.zeros(2, 3)), Signals(torch.zeros(2, 1)), {})
