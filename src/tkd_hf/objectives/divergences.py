"""Divergences between the predictions of two models as pure functions of logits, one value per row.

`SOFT_LOSSES` says which divergence compares the predictions for a problem type.
"""

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

from ..data.problem_types import ProblemType


def forward_kl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return KL(teacher ‖ student) of log-probabilities (…, classes).

    It makes the student cover every class that the teacher considers likely (Hinton et al. 2015, arXiv 1503.02531).
    """
    return (teacher.exp() * (teacher - student)).sum(dim=-1)


def reverse_kl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return KL(student ‖ teacher) of log-probabilities (…, classes).

    It makes the student concentrate on the teacher's likeliest classes (MiniLLM, Gu et al. 2023, arXiv 2306.08543).
    """
    return forward_kl(teacher, student)


def jensen_shannon(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return (KL(student ‖ m) + KL(teacher ‖ m)) / 2 of log-probabilities, with m the mean of the two distributions.

    It is symmetric and at most log 2 (Lin 1991).
    """
    mean = torch.logaddexp(student, teacher) - math.log(2)
    return (forward_kl(mean, student) + forward_kl(mean, teacher)) / 2


DIVERGENCES = {"forward_kl": forward_kl, "reverse_kl": reverse_kl, "jensen_shannon": jensen_shannon}


def categorical_divergence(
    student: torch.Tensor,
    teacher: torch.Tensor,
    temperature: float = 1.0,
    divergence: str = "forward_kl",
    top_k: int | None = None,
) -> torch.Tensor:
    """Return T² times the divergence between the two softened distributions over classes.

    Dividing the logits by T shrinks the gradient by about T²; the factor T² makes up for it, so that a change of
    temperature does not change the weight of the objective (arXiv 1503.02531, section 2).

    Args:
        student, teacher: logits, (…, classes).
        temperature: T, positive. 1 compares the distributions as they are; larger values smooth them.
        divergence: a name from `DIVERGENCES`.
        top_k: keep the teacher's k likeliest classes apart and merge all others into one class. The result is a lower
            bound of the full divergence, and needs little memory if the classes are the words of a vocabulary.

    Returns:
        one value per row, (…).
    """
    student, teacher = F.log_softmax(student / temperature, dim=-1), F.log_softmax(teacher / temperature, dim=-1)
    if top_k is not None and top_k < teacher.shape[-1] - 1:
        top_classes = teacher.topk(top_k, dim=-1).indices
        student, teacher = _merge_other_classes(student, top_classes), _merge_other_classes(teacher, top_classes)
    return DIVERGENCES[divergence](student, teacher) * temperature**2


def bernoulli_divergence(
    student: torch.Tensor,
    teacher: torch.Tensor,
    temperature: float = 1.0,
    divergence: str = "forward_kl",
    top_k: int | None = None,
) -> torch.Tensor:
    """Return T² times the divergence between each label's yes and no, averaged over the labels.

    Labels that can be true together have no common distribution, so a softmax over them would be wrong.

    Args:
        student, teacher: logits, (…, labels).
        temperature, divergence: as in `categorical_divergence`.
        top_k: not used: yes and no are only two classes.

    Returns:
        one value per row, (…).
    """
    # sigmoid(z) is the softmax over the two classes with logits z and 0
    student = torch.stack((student, torch.zeros_like(student)), dim=-1)
    teacher = torch.stack((teacher, torch.zeros_like(teacher)), dim=-1)
    return categorical_divergence(student, teacher, temperature, divergence).mean(dim=-1)


def squared_difference(
    student: torch.Tensor,
    teacher: torch.Tensor,
    temperature: float = 1.0,
    divergence: str = "mse",
    top_k: int | None = None,
) -> torch.Tensor:
    """Return the squared difference of the logits, averaged over the labels.

    It is the limit of the other divergences for large T, and the only divergence between scores.

    Args:
        student, teacher: logits, (…, labels).
        temperature, divergence, top_k: not used; they are arguments of every function of `SOFT_LOSSES`.

    Returns:
        one value per row, (…).
    """
    return F.mse_loss(student, teacher, reduction="none").mean(dim=-1)


def _merge_other_classes(log_probs: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities of the given classes, followed by that of all others together."""
    other_classes = log_probs.scatter(-1, classes, -torch.inf).logsumexp(dim=-1, keepdim=True)
    return torch.cat((log_probs.gather(-1, classes), other_classes), dim=-1)


SOFT_LOSSES: dict[ProblemType, Callable[[torch.Tensor, torch.Tensor, float, str, int | None], torch.Tensor]] = {
    ProblemType.SINGLE_LABEL: categorical_divergence,
    ProblemType.TOKEN_CLASSIFICATION: categorical_divergence,
    ProblemType.MASKED_LM: categorical_divergence,
    ProblemType.MULTI_LABEL: bernoulli_divergence,
    ProblemType.REGRESSION: squared_difference,
}
