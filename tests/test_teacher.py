"""Live teachers: in evaluation mode for a call, several as one."""

import pytest
import torch

from tkd_hf.errors import InputError
from tkd_hf.teacher import CachedTeacher, LiveTeacher, TeacherEnsemble

from .conftest import build_teacher


BATCH = {
    "input_ids": torch.tensor([[2, 7, 9, 3], [2, 8, 3, 0]]),
    "attention_mask": torch.tensor([[1] * 4, [1, 1, 1, 0]]),
}


def test_dropout_is_off_for_the_call_alone(teacher):
    teacher.train()
    live = LiveTeacher(teacher)
    torch.testing.assert_close(live(BATCH).logits, live(BATCH).logits, atol=0, rtol=0)
    assert teacher.training
    assert not live(BATCH).logits.requires_grad


def test_several_teachers_give_the_weighted_mean_of_their_logits():
    teachers = [build_teacher(seed=seed) for seed in (0, 1)]
    live = [LiveTeacher(teacher) for teacher in teachers]
    first, second = (teacher(**BATCH).logits.detach() for teacher in teachers)
    torch.testing.assert_close(TeacherEnsemble(live)(BATCH).logits, (first + second) / 2)
    torch.testing.assert_close(TeacherEnsemble(live, [3, 1])(BATCH).logits, (3 * first + second) / 4)


def test_the_mean_of_logits_is_the_geometric_mean_of_distributions():
    logits = torch.tensor([[[1.0, 2.0, -1.0]], [[0.0, 3.0, 0.5]]])
    cached = [lambda batch, own=own: CachedTeacher()({"teacher_logits": own}) for own in logits]
    mean = TeacherEnsemble(cached)({}).logits.softmax(-1)
    geometric = logits.softmax(-1).log().mean(0).exp()
    torch.testing.assert_close(mean, geometric / geometric.sum())


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0]])
def test_weights_that_do_not_fit_are_refused(weights, teacher):
    with pytest.raises(InputError, match=r"teacher_weights=\[.*\] for 2 teachers; give each a weight"):
        TeacherEnsemble([LiveTeacher(teacher)] * 2, weights)


def test_a_label_a_token_is_put_in_order_too(teacher):
    order = LiveTeacher(teacher, label_order=[1, 0])(BATCH).logits
    torch.testing.assert_close(order, LiveTeacher(teacher)(BATCH).logits[:, [1, 0]])
