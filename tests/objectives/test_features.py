"""Objectives on features: values against a reference, gradients, and that padding does not count."""

import numpy as np
import pytest
import torch
from scipy.special import rel_entr
from scipy.special import softmax as scipy_softmax
from transformers import BertConfig

from tkd_hf import DistillationTrainingArguments, TKDConfig
from tkd_hf.core.errors import InputError
from tkd_hf.models.signals import FEATURES, Signals
from tkd_hf.objectives import (
    OBJECTIVES,
    AttentionScores,
    CosineDistance,
    Embeddings,
    HiddenStates,
    SelfAttentionRelations,
)
from tkd_hf.objectives.base import ObjectiveSetup


FEATURE_OBJECTIVES = {
    "hidden": HiddenStates([0, 2], 8, 8),
    "hidden with a projection": HiddenStates([0, 2], 8, 12),
    "embeddings": Embeddings(8, 12),
    "cosine": CosineDistance(8, 8),
    "attention": AttentionScores([0, 2], heads=[2, 2], teacher_heads=[2, 2, 2]),
    "relations": SelfAttentionRelations(2, 8, 12, relation_heads=4),
}


def random_signals(layers: int, width: int, seed: int, batch: int = 3, length: int = 5, dtype=torch.float64) -> Signals:
    generator = torch.Generator().manual_seed(seed)

    def states(count):
        return tuple(torch.randn(batch, length, width, generator=generator, dtype=dtype) for _ in range(count))

    return Signals(None, states(layers + 1), states(layers), states(layers), states(layers))


def select(signals: Signals, rows=slice(None), length=None) -> Signals:
    fields = {name: tuple(states[rows, :length] for states in getattr(signals, name)) for name in FEATURES}
    return Signals(None, **fields)


def teacher_width(objective) -> int:
    projection = getattr(objective, "projection", None)
    if isinstance(objective, SelfAttentionRelations):
        return 12
    return getattr(projection, "out_features", 8)


@pytest.fixture(params=FEATURE_OBJECTIVES)
def objective(request):
    return FEATURE_OBJECTIVES[request.param].double()


@pytest.fixture
def pair(objective):
    return random_signals(2, 8, 0), random_signals(3, teacher_width(objective), 1)


def test_values_at_padding_change_neither_loss_nor_gradient(objective, pair):
    student, teacher = pair
    mask = torch.tensor([[1, 1, 1, 0, 0]] * 3)
    for signals in pair:
        for name in FEATURES:
            for states in getattr(signals, name):
                states[:, 3:] = 1e6
                states.requires_grad_(signals is student)
    value = objective(student, teacher, {"attention_mask": mask})
    unpadded = objective(select(student, length=3), select(teacher, length=3), {"input_ids": torch.ones(3, 3)})
    torch.testing.assert_close(value, unpadded)
    value.backward()
    for name in objective.features:
        for states in getattr(student, name):
            if states.grad is not None:
                assert states.grad.isfinite().all()
                assert states.grad[:, 3:].eq(0).all()


def test_the_loss_of_a_batch_is_the_mean_over_its_examples(objective, pair):
    """The examples have different lengths; each is also run as a batch of its own."""
    student, teacher = pair
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1]])
    values = []
    for row in range(3):
        rows = slice(row, row + 1)
        values.append(objective(select(student, rows), select(teacher, rows), {"attention_mask": mask[rows]}))
    torch.testing.assert_close(objective(student, teacher, {"attention_mask": mask}), torch.stack(values).mean())


def test_gradients_match_finite_differences(objective, pair, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor)  # keep float64, which gradcheck needs
    student, teacher = pair
    name = objective.features[0]
    states = getattr(student, name)

    def value(last_states):
        setattr(student, name, (*states[:-1], last_states))
        if isinstance(objective, Embeddings):
            student.hidden_states = (last_states, *states[1:])
        return objective(student, teacher, {"input_ids": torch.ones(3, 5)})

    assert torch.autograd.gradcheck(value, states[-1].clone().requires_grad_())


def test_hidden_states_loss_by_hand():
    """The two layers differ by 1 and by 3, in half of the tokens: (½·1 + ½·9) / 2."""
    zeros = torch.zeros(1, 2, 4)
    half = torch.tensor([[[1.0] * 4, [0.0] * 4]])
    student = Signals(hidden_states=(zeros, zeros, zeros))
    teacher = Signals(hidden_states=(zeros + 99, zeros + 99, half, zeros + 99, 3 * half))
    value = HiddenStates([1, 3], 4, 4)(student, teacher, {"input_ids": torch.ones(1, 2)})
    assert value.item() == pytest.approx((0.5 * 1 + 0.5 * 9) / 2)


def test_projections_are_applied_learned_and_absent_for_equal_widths():
    objective = HiddenStates([0], 2, 3)
    with torch.no_grad():
        objective.projection.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    states = torch.tensor([[[1.0, 2.0]]])
    value = objective(
        Signals(hidden_states=(states, states)),
        Signals(hidden_states=(None, torch.tensor([[[1.0, 2.0, 0.0]]]))),
        {"input_ids": torch.ones(1, 1)},
    )
    assert value.item() == pytest.approx(3.0)  # (0² + 0² + 3²) / 3
    value.backward()
    assert objective.projection.weight.grad.abs().sum() > 0
    assert not list(HiddenStates([0], 3, 3).parameters())


def test_attention_scores_loss_by_hand():
    """One token, two heads of width 2: the scores are (1·1 + 2·2)/√2 and (3·3 + 0)/√2, the teacher's are 0."""
    states = torch.tensor([[[1.0, 2.0, 3.0, 0.0]]])
    student, teacher = Signals(queries=(states,), keys=(states,)), Signals(queries=(states,), keys=(0 * states,))
    value = AttentionScores([0], [2], [2])(student, teacher, {"input_ids": torch.ones(1, 1)})
    assert value.item() == pytest.approx(((5**2 + 9**2) / 2) / 2)


def test_relations_loss_equals_that_computed_with_scipy():
    student, teacher = random_signals(1, 8, 2), random_signals(1, 12, 3)
    mask = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], bool)
    heads, total = 2, 0.0
    for name in ("queries", "keys", "values"):
        for row in range(3):
            relations = []
            for signals in (teacher, student):
                states = getattr(signals, name)[0][row].float().numpy()[mask[row]]
                parts = states.reshape(len(states), heads, -1).swapaxes(0, 1)
                relations.append(scipy_softmax(parts @ parts.swapaxes(1, 2) / np.sqrt(parts.shape[-1]), axis=-1))
            total += rel_entr(*relations).sum(axis=-1).mean() / 3 / 3
    objective = SelfAttentionRelations(0, 8, 12, relation_heads=heads)
    value = objective(student, teacher, {"attention_mask": torch.tensor(mask)})
    assert value.item() == pytest.approx(total, rel=1e-5)


def test_relations_loss_of_a_model_with_itself_is_zero():
    student = random_signals(2, 12, 4)
    assert SelfAttentionRelations(1, 12, 12)(student, student, {"input_ids": torch.ones(3, 5)}).abs() < 1e-6


def test_relation_heads_must_divide_both_query_widths():
    with pytest.raises(InputError, match=r"relation_heads=5 must divide both .* 8 .* and 12 .* choose a divisor of 4"):
        SelfAttentionRelations(0, 8, 12, relation_heads=5)
    assert SelfAttentionRelations(0, 11 * 32, 12 * 32, teacher_heads=12).relation_heads == 8
    assert SelfAttentionRelations(0, 384, 384, relation_heads=48).relation_heads == 48


def test_attention_with_different_numbers_of_heads_is_refused():
    with pytest.raises(InputError, match=r"student layer 1 has 3 heads and teacher layer 2 has 4; use 'relations'"):
        AttentionScores([0, 2], heads=[4, 3], teacher_heads=[4, 4, 4])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_builds_from_a_setup_and_declares_its_needs(name):
    args = DistillationTrainingArguments("unused", report_to="none", use_cpu=True)
    student = TKDConfig(num_hidden_layers=2, hidden_size=64, num_attention_heads=4, intermediate_size=8, vocab_size=9)
    teacher = BertConfig(num_hidden_layers=3, hidden_size=96, num_attention_heads=4, intermediate_size=8, vocab_size=9)
    objective = OBJECTIVES[name].build(ObjectiveSetup(args, "single_label_classification", student, teacher, (0, 2)))
    assert isinstance(objective.needs_teacher, bool)
    assert isinstance(objective.needs_labels, bool)
    assert set(objective.features) <= set(FEATURES)
    assert not objective.features or objective.needs_teacher
