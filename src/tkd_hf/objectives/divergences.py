"""Divergences between two distributions, one value a row, as pure functions of logits."""

import math

import torch
from torch.nn import functional as F


def forward_kl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL(teacher ‖ student) of log-probabilities (…, classes): the student covers all that the teacher thinks likely.

    Hinton et al. 2015, arXiv 1503.02531.
    """
    return (teacher.exp() * (teacher - student)).sum(dim=-1)


def reverse_kl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL(student ‖ teacher): the student keeps to what the teacher thinks most likely (MiniLLM, arXiv 2306.08543)."""
    return forward_kl(teacher, student)


def jensen_shannon(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Half of KL(student ‖ m) + KL(teacher ‖ m) with their mean m: symmetric, and at most log 2 (Lin 1991)."""
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
    """The divergence of the softened distributions over classes, times T².

    T² keeps the gradient's size independent of the temperature (arXiv 1503.02531, section 2).

    Args:
        student, teacher: logits, (…, classes).
        temperature: T, positive.
        divergence: a name among `DIVERGENCES`.
        top_k: tell apart only the teacher's k likeliest classes, and take all the others for one: a lower bound of
            the whole divergence that needs little memory where the classes are a vocabulary.

    Returns:
        (…), one value a row.
    """
    student, teacher = F.log_softmax(student / temperature, dim=-1), F.log_softmax(teacher / temperature, dim=-1)
    if top_k is not None and top_k < teacher.shape[-1] - 1:
        best = teacher.topk(top_k, dim=-1).indices
        student, teacher = _with_rest(student, best), _with_rest(teacher, best)
    return DIVERGENCES[divergence](student, teacher) * temperature**2


def bernoulli_divergence(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0, divergence: str = "forward_kl"
) -> torch.Tensor:
    """The divergence of each label's own yes-or-no, times T², mean over labels.

    A softmax over labels that do not exclude each other would compare the wrong distributions.

    Args:
        student, teacher: logits, (…, labels).
        temperature, divergence: as in `categorical_divergence`.

    Returns:
        (…), one value a row.
    """
    # a yes-or-no of logit z is a choice between two classes of logits z and 0
    pair = [torch.stack((logits, torch.zeros_like(logits)), dim=-1) for logits in (student, teacher)]
    return categorical_divergence(*pair, temperature, divergence).mean(dim=-1)


def _with_rest(log_probs: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the chosen classes, and of all the others together."""
    rest = log_probs.scatter(-1, chosen, -torch.inf).logsumexp(dim=-1, keepdim=True)
    return torch.cat((log_probs.gather(-1, chosen), rest), dim=-1)
