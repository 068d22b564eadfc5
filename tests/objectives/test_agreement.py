"""Agreement on a batch, by hand."""

import pytest
import torch

from tkd_hf.objectives.agreement import batch_agreement


def test_of_classes():
    student, teacher = torch.tensor([[1.0, 0], [0, 1], [2, 1]]), torch.tensor([[3.0, 0], [1, 0], [1, 0]])
    assert batch_agreement(student, teacher, {}, "single_label_classification")["agreement"] == pytest.approx(2 / 3)


def test_of_several_labels_all_have_to_be_alike():
    student, teacher = torch.tensor([[1.0, -1], [1, 1]]), torch.tensor([[2.0, -3], [1, -1]])
    assert batch_agreement(student, teacher, {}, "multi_label_classification")["agreement"] == 0.5


def test_of_scores():
    found = batch_agreement(torch.tensor([[1.0], [2]]), torch.tensor([[1.5], [0]]), {}, "regression")
    assert found == {"teacher_difference": torch.tensor(1.25)}


def test_of_tokens_each_example_weighs_the_same():
    student = torch.zeros(2, 3, 2)
    student[..., 0] = 1
    teacher = student.clone()
    teacher[0, 0] = torch.tensor([0.0, 1.0])
    labels = torch.tensor([[0, 1, -100], [1, -100, -100]])  # one of two in the first example, one of one in the second
    found = batch_agreement(student, teacher, {"labels": labels, "input_ids": labels}, "token_classification")
    assert found["agreement"] == pytest.approx(0.75)
