"""The divergences, checked against scipy, by hand, and by finite differences."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr
from scipy.special import softmax as scipy_softmax

from tkd_hf.objectives.divergences import DIVERGENCES, bernoulli_divergence, categorical_divergence


def random_logits(seed, shape=(5, 3)):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) * 3, rng.normal(size=shape) * 3


def reference(name, teacher, student):
    """Compute a divergence of probabilities, (rows, classes), with scipy."""

    def kl(first, second):
        return rel_entr(first, second).sum(axis=-1)

    mean = (teacher + student) / 2
    return {
        "forward_kl": kl(teacher, student),
        "reverse_kl": kl(student, teacher),
        "jensen_shannon": (kl(teacher, mean) + kl(student, mean)) / 2,
    }[name]


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_categorical_divergence_is_temperature_squared_times_scipys(name, temperature):
    student, teacher = random_logits(0)
    p, q = scipy_softmax(teacher / temperature, axis=-1), scipy_softmax(student / temperature, axis=-1)
    actual = categorical_divergence(torch.tensor(student), torch.tensor(teacher), temperature, name)
    np.testing.assert_allclose(actual, reference(name, p, q) * temperature**2, rtol=1e-9)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_bernoulli_divergence_is_that_of_yes_and_no_averaged_over_labels(name, temperature):
    student, teacher = random_logits(1)
    p, q = (1 / (1 + np.exp(-logits / temperature)) for logits in (teacher, student))
    p, q = (np.stack([yes, 1 - yes], axis=-1) for yes in (p, q))
    actual = bernoulli_divergence(torch.tensor(student), torch.tensor(teacher), temperature, name)
    np.testing.assert_allclose(actual, reference(name, p, q).mean(axis=-1) * temperature**2, rtol=1e-9)


def test_kl_of_two_classes_by_hand():
    """Teacher (½, ½), student (¼, ¾): forward ½ ln 2 + ½ ln ⅔, reverse ¼ ln ½ + ¾ ln 3⁄2."""
    student, teacher = torch.tensor([[0.0, np.log(3)]]), torch.zeros(1, 2)
    forward, reverse = (categorical_divergence(student, teacher, 1.0, name) for name in ("forward_kl", "reverse_kl"))
    assert forward.item() == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3), rel=1e-6)
    assert reverse.item() == pytest.approx(0.25 * np.log(0.5) + 0.75 * np.log(1.5), rel=1e-6)


def test_gradient_of_forward_kl_matches_the_formula():
    """The gradient of T² KL is T (softmax(s/T) - softmax(t/T)), Hinton et al. 2015, equation 2."""
    student, teacher = (torch.tensor(logits, requires_grad=True) for logits in random_logits(2))
    categorical_divergence(student, teacher, 2.0).sum().backward()
    torch.testing.assert_close(student.grad, 2 * ((student / 2).softmax(-1) - (teacher / 2).softmax(-1)).detach())


@pytest.mark.parametrize("name", DIVERGENCES)
def test_gradients_match_finite_differences(name):
    student, teacher = (torch.tensor(logits, requires_grad=True) for logits in random_logits(3, (4, 5)))
    teacher = teacher.detach()
    assert torch.autograd.gradcheck(lambda s: categorical_divergence(s, teacher, 2.0, name), student)
    assert torch.autograd.gradcheck(lambda s: categorical_divergence(s, teacher, 2.0, name, top_k=2), student)
    assert torch.autograd.gradcheck(lambda s: bernoulli_divergence(s, teacher, 2.0, name), student)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.floats(0.5, 10), st.sampled_from(sorted(DIVERGENCES)))
def test_divergences_are_positive_and_zero_for_equal_distributions(seed, temperature, name):
    student, teacher = map(torch.tensor, random_logits(seed))
    for divergence in (categorical_divergence, bernoulli_divergence):
        assert (divergence(student, teacher, temperature, name) > 0).all()
        assert divergence(teacher, teacher, temperature, name).abs().max() < 1e-12


@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergences_are_finite_for_extreme_logits(name):
    extreme = torch.tensor([[1e4, -1e4]])
    for divergence in (categorical_divergence, bernoulli_divergence):
        assert torch.isfinite(divergence(extreme, -extreme, 1.0, name)).all()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_top_k_merges_all_other_classes_into_one(name):
    student, teacher = random_logits(4, (6, 7))
    p, q = scipy_softmax(teacher, axis=-1), scipy_softmax(student, axis=-1)
    top_classes = np.argsort(-teacher, axis=-1)[:, :3]
    p, q = (np.take_along_axis(probs, top_classes, axis=-1) for probs in (p, q))
    p, q = (np.concatenate([probs, 1 - probs.sum(axis=-1, keepdims=True)], axis=-1) for probs in (p, q))
    pair = torch.tensor(student), torch.tensor(teacher)
    actual = categorical_divergence(*pair, 1.0, name, top_k=3)
    np.testing.assert_allclose(actual, reference(name, p, q), rtol=1e-9)
    assert (actual <= categorical_divergence(*pair, 1.0, name)).all()
    for top_k in (6, 7, 100):  # at most one class is left, so nothing is merged
        torch.testing.assert_close(
            categorical_divergence(*pair, 1.0, name, top_k=top_k), categorical_divergence(*pair, 1.0, name)
        )
