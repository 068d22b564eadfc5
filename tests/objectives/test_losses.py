"""The divergences, `logits` and `hard` equal losses computed by hand, by scipy and by transformers; their arguments."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr
from scipy.special import softmax as scipy_softmax
from torch.nn import functional as F
from transformers import TrainingArguments

from tkd_hf import DistillationTrainingArguments, FineTuningArguments
from tkd_hf.core.errors import InputError
from tkd_hf.models.signals import Signals
from tkd_hf.objectives import HardLoss, LogitDistillation
from tkd_hf.objectives.base import batch_agreement
from tkd_hf.objectives.divergences import DIVERGENCES, bernoulli_divergence, categorical_divergence

from ..factories import build_teacher


SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


def random_signals(seed, shape=(5, 3)) -> tuple[Signals, Signals]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(Signals(logits=3 * torch.randn(shape, generator=generator)) for _ in range(2))


def test_the_divergence_depends_on_the_problem_type():
    student, teacher = random_signals(4)
    by_type = {name: LogitDistillation(name, 3.0)(student, teacher, {}) for name in (SINGLE, MULTI, REGRESSION)}
    torch.testing.assert_close(by_type[SINGLE], categorical_divergence(student.logits, teacher.logits, 3.0).mean())
    torch.testing.assert_close(by_type[MULTI], bernoulli_divergence(student.logits, teacher.logits, 3.0).mean())
    torch.testing.assert_close(by_type[REGRESSION], (student.logits - teacher.logits).square().mean())


def test_mse_divergence_is_the_squared_difference_of_logits():
    student, teacher = Signals(logits=torch.tensor([[1.0, 2.0]])), Signals(logits=torch.tensor([[3.0, 1.0]]))
    for problem_type in (SINGLE, MULTI):
        assert LogitDistillation(problem_type, divergence="mse")(student, teacher, {}).item() == pytest.approx(
            (4 + 1) / 2
        )


def test_the_named_divergence_is_computed():
    student, teacher = random_signals(5)
    for name in ("reverse_kl", "jensen_shannon"):
        expected = categorical_divergence(student.logits, teacher.logits, 2.0, name).mean()
        torch.testing.assert_close(LogitDistillation(SINGLE, 2.0, divergence=name)(student, teacher, {}), expected)


def test_the_temperature_changes_linearly_with_the_progress():
    objective = LogitDistillation(SINGLE, 4.0, final_temperature=2.0)
    student, teacher = random_signals(6)
    for progress, temperature in ((0.0, 4.0), (0.25, 3.5), (1.0, 2.0)):
        objective.set_progress(progress)
        expected = categorical_divergence(student.logits, teacher.logits, temperature).mean()
        torch.testing.assert_close(objective(student, teacher, {}), expected)


def test_confidence_weighting_weighs_examples_by_the_teachers_probability():
    """The teacher gives its prediction the probabilities ¾ and ½."""
    teacher = torch.tensor([[np.log(3.0), 0.0], [0.0, 0.0]], dtype=torch.float32)
    student = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    divergences = categorical_divergence(student, teacher)
    weighted = LogitDistillation(SINGLE, confidence_weighting=True)(Signals(student), Signals(teacher), {})
    torch.testing.assert_close(weighted, (0.75 * divergences[0] + 0.5 * divergences[1]) / 2)
    divergences = bernoulli_divergence(student, teacher)
    weighted = LogitDistillation(MULTI, confidence_weighting=True)(Signals(student), Signals(teacher), {})
    torch.testing.assert_close(weighted, ((0.75 + 0.5) / 2 * divergences[0] + 0.5 * divergences[1]) / 2)


def test_confidence_weighting_is_refused_for_regression():
    with pytest.raises(InputError, match=r"confidence_weighting=True .* regression.*; leave it out"):
        LogitDistillation(REGRESSION, confidence_weighting=True)


def test_ignored_tokens_do_not_count_and_every_example_weighs_the_same():
    student, teacher = random_signals(7, (2, 4, 3))
    labels = torch.tensor([[-100, 1, 2, -100], [-100, 0, -100, -100]])
    divergences = categorical_divergence(student.logits, teacher.logits, 2.0)
    expected = ((divergences[0, 1] + divergences[0, 2]) / 2 + divergences[1, 1]) / 2
    objective = LogitDistillation("token_classification", 2.0)
    torch.testing.assert_close(objective(student, teacher, {"labels": labels}), expected)
    unlabelled = {"attention_mask": torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])}
    expected = (divergences[0, :2].mean() + divergences[1].mean()) / 2
    torch.testing.assert_close(objective(student, teacher, unlabelled), expected)


def test_logits_of_labelled_tokens_alone_give_the_same_loss():
    student, teacher = random_signals(8, (2, 4, 9))
    labels = torch.tensor([[-100, 1, 2, -100], [-100, 0, -100, -100]])
    objective = LogitDistillation("masked_lm", top_k=3)
    selected = Signals(logits=student.logits[labels != -100])
    expected = objective(student, teacher, {"labels": labels})
    torch.testing.assert_close(objective(selected, teacher, {"labels": labels}), expected)


def test_logits_of_another_width_are_refused_and_not_broadcast():
    with pytest.raises(ValueError, match=r"shape \(2, 3\), the teacher's \(2, 1\); .*SoftLabels.attach"):
        LogitDistillation(REGRESSION)(Signals(torch.zeros(2, 3)), Signals(torch.zeros(2, 1)), {})


def test_agreement_is_the_share_of_equal_predicted_classes():
    student, teacher = torch.tensor([[1.0, 0], [0, 1], [2, 1]]), torch.tensor([[3.0, 0], [1, 0], [1, 0]])
    assert batch_agreement(student, teacher, {}, SINGLE)["agreement"] == pytest.approx(2 / 3)


def test_agreement_with_several_labels_requires_all_of_them_to_be_equal():
    student, teacher = torch.tensor([[1.0, -1], [1, 1]]), torch.tensor([[2.0, -3], [1, -1]])
    assert batch_agreement(student, teacher, {}, MULTI)["agreement"] == 0.5


def test_scores_have_a_mean_absolute_difference_and_no_agreement():
    metrics = batch_agreement(torch.tensor([[1.0], [2]]), torch.tensor([[1.5], [0]]), {}, REGRESSION)
    assert metrics == {"teacher_difference": torch.tensor(1.25)}


def test_agreement_on_tokens_weighs_every_example_the_same():
    student = torch.zeros(2, 3, 2)
    student[..., 0] = 1
    teacher = student.clone()
    teacher[0, 0] = torch.tensor([0.0, 1.0])
    labels = torch.tensor([[0, 1, -100], [1, -100, -100]])  # equal: one of two tokens, and one of one
    metrics = batch_agreement(student, teacher, {"labels": labels, "input_ids": labels}, "token_classification")
    assert metrics["agreement"] == pytest.approx(0.75)


SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


@pytest.mark.parametrize(
    ("problem_type", "labels", "num_labels"),
    [
        (SINGLE, torch.tensor([1, 0]), 2),
        (MULTI, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]), 3),
        (REGRESSION, torch.tensor([0.5, -1.0]), 1),
    ],
)
def test_hard_loss_equals_the_loss_of_a_transformers_head(problem_type, labels, num_labels):
    ids = torch.tensor([[2, 7, 9, 3], [2, 8, 9, 3]])
    model = build_teacher(tuple("abc"[:num_labels]) if num_labels > 1 else (), problem_type=problem_type)
    output = model(input_ids=ids, labels=labels)
    torch.testing.assert_close(HardLoss(problem_type)(Signals(output.logits), None, {"labels": labels}), output.loss)


@pytest.mark.parametrize(
    ("problem_type", "logits", "labels"),
    [
        (SINGLE, torch.tensor([[1.0, 2.0], [0.5, 0.0]]), torch.tensor([1, -100])),
        (MULTI, torch.tensor([[1.0, 2.0], [0.5, 0.0]]), torch.tensor([[1.0, 0.0], [torch.nan] * 2])),
        (REGRESSION, torch.tensor([[1.0], [0.5]]), torch.tensor([2.0, torch.nan])),
    ],
)
def test_examples_without_a_label_contribute_neither_loss_nor_gradient(problem_type, logits, labels):
    logits.requires_grad_()
    loss = HardLoss(problem_type)(Signals(logits), None, {"labels": labels})
    loss_of_labelled = HardLoss(problem_type)(Signals(logits[:1]), None, {"labels": labels[:1]})
    torch.testing.assert_close(loss, loss_of_labelled / 2)  # the mean is over all examples, labelled or not
    loss.backward()
    assert logits.grad[1].eq(0).all()
    assert logits.grad.isfinite().all()


def test_token_losses_are_averaged_per_example_first():
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[-100, 1, 2], [0, -100, -100]])
    token_losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    expected = (token_losses[0, 1:].mean() + token_losses[1, 0]) / 2
    hard = HardLoss("token_classification")
    torch.testing.assert_close(hard(Signals(logits), None, {"labels": labels}), expected)
    selected = Signals(logits[labels != -100])
    torch.testing.assert_close(HardLoss("masked_lm")(selected, None, {"labels": labels}), expected)


def test_label_smoothing_spreads_its_share_over_all_classes():
    logits, labels = torch.tensor([[2.0, -1.0]]), torch.tensor([0])
    smoothed = HardLoss(SINGLE, label_smoothing=0.1)(Signals(logits), None, {"labels": labels})
    log_probs = logits.log_softmax(-1)[0]
    assert smoothed.item() == pytest.approx(-(0.95 * log_probs[0] + 0.05 * log_probs[1]).item(), rel=1e-6)


def test_float_labels_are_refused_for_single_label_classification():
    with pytest.raises(ValueError, match=r"torch.float32 .*problem_type='multi_label_classification'"):
        HardLoss(SINGLE)(Signals(torch.zeros(1, 2)), None, {"labels": torch.tensor([[1.0, 0.0]])})


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


def arguments_with(**fields):
    return DistillationTrainingArguments("unused", report_to="none", use_cpu=True, **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0}, r"temperature=0 must be positive; 1 does not"),
        ({"objectives": {"logit": 1.0}}, r"unknown objective 'logit' \(weight 1.0\); choose from logits, hard"),
        ({"objectives": {"logits": -1.0}}, r"objectives\['logits'\]=-1.0 is negative; a weight of 0"),
        ({"objectives": {"logits": 0.0}}, r"leave nothing to learn; give at least one .* a positive weight"),
        ({"objectives": "logits"}, r"objectives='logits' are not weights by name"),
        ({"final_objectives": {"soft": 1.0}}, r"unknown objective 'soft'"),
        ({"final_temperature": -1.0}, r"final_temperature=-1.0 must be positive"),
        ({"divergence": "kl"}, r"unknown divergence 'kl'; choose from forward_kl, reverse_kl, jensen_shannon, mse"),
        ({"top_k": 0}, r"top_k=0 must be at least 1"),
        ({"relation_heads": -2}, r"relation_heads=-2 must be at least 1"),
    ],
)
def test_invalid_values_are_refused_with_a_hint(fields, message):
    with pytest.raises(ValueError, match=message):
        arguments_with(**fields)


def test_objectives_may_be_a_json_string():
    assert arguments_with(objectives='{"logits": 0.5, "hard": 0.5}').objectives == {"logits": 0.5, "hard": 0.5}


def test_default_objectives_are_not_shared_between_instances():
    assert arguments_with().objectives is not arguments_with().objectives


def test_arguments_are_training_arguments_with_linear_warm_up():
    args = arguments_with(weight_decay=0.01)
    assert isinstance(args, TrainingArguments)
    assert (args.weight_decay, args.lr_scheduler_type, args.get_warmup_steps(100)) == (0.01, "linear", 10)


def test_bf16_defaults_to_what_the_device_supports(monkeypatch):
    for available in (True, False):
        monkeypatch.setattr("tkd_hf.objectives.arguments.has_fast_bf16", lambda use_cpu, available=available: available)
        assert arguments_with().bf16 is available
        assert arguments_with(bf16=not available).bf16 is not available
        assert arguments_with(fp16=True).bf16 is False


def test_bf16_is_the_default_on_a_cpu_that_supports_it(monkeypatch):
    """Without an accelerator, `use_cpu` need not be set by hand."""
    monkeypatch.setattr("tkd_hf.objectives.arguments.has_fast_bf16", lambda use_cpu: True)
    monkeypatch.setattr("torch.accelerator.is_available", lambda *args, **kwargs: False)
    args = FineTuningArguments("unused", report_to="none")
    assert (args.bf16, args.use_cpu) == (True, True)
