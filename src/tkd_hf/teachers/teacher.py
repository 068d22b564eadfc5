"""Teachers as the trainer calls them: a live model, several of them, or soft labels in the batch."""

from collections.abc import Callable, Iterable, Sequence

import torch
from transformers import PreTrainedModel

from ..core.errors import InputError
from ..data.tokenization import TEACHER_LOGITS, is_teacher_feature, teacher_prefix
from ..models.signals import Recorder, Signals, accepted_inputs


# Whatever returns a teacher's signals for a batch, with the logits in the student's order of labels.
Teacher = Callable[[dict[str, torch.Tensor]], Signals]


class LiveTeacher:
    """Run a teacher on each batch, without gradients and without dropout.

    If the batch has columns with the teacher's prefix (for a teacher with another tokenizer), the teacher reads those,
    otherwise the student's. After each call the teacher is back in the mode (train or eval) that it was in.

    Args:
        model: the teacher; its weights do not change.
        label_order: for each of the student's labels, its index among the teacher's; `None` if the order is the same.
        features: signals to record besides logits, from `tkd_hf.models.signals.FEATURES`.
        index: position of this teacher among several, from 0. It decides the prefix of its columns.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        label_order: list[int] | None = None,
        features: Iterable[str] = (),
        index: int = 0,
    ):
        self.model = model
        self.index = index
        self.label_order = label_order
        self._record = Recorder(model, features)
        self._accepted = accepted_inputs(model)

    def __call__(self, batch: dict[str, torch.Tensor]) -> Signals:
        """Return the teacher's signals for a batch, with the logits in the student's order of labels."""
        features = self._features(batch)
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                signals, _ = self._record(self.model, features)
        finally:
            self.model.train(was_training)
        if self.label_order is not None and signals.logits is not None:
            signals.logits = signals.logits[..., self.label_order]
        return signals

    def _features(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        prefix = teacher_prefix(self.index)
        prefixed = {
            name.removeprefix(prefix): value for name, value in batch.items() if is_teacher_feature(name, self.index)
        }
        features = prefixed or {name: value for name, value in batch.items() if name != "labels"}
        return {name: value for name, value in features.items() if name in self._accepted}


class TeacherEnsemble:
    """Several teachers as one: the weighted mean of their logits.

    Use it if several models are good at the same task and their mistakes differ. The student costs the same; training
    takes one forward pass per teacher. Objectives that read hidden states or attention need a single teacher.

    The mean of logits is the geometric mean of the distributions. Hinton et al. 2015 (arXiv 1503.02531, section 1)
    name it next to the arithmetic mean of probabilities. Unlike that mean, it does not depend on the temperature, and
    it also works for scores and for several labels per example.

    Args:
        teachers: callables such as `LiveTeacher` that return logits in the student's order of labels.
        weights: one weight per teacher; they need not add up to 1 (equal weights).

    Raises:
        InputError: if the number of weights differs from that of teachers, a weight is negative, or all are 0.

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf.models.signals import Signals
    >>> from tkd_hf.teachers.teacher import TeacherEnsemble
    >>> sure = lambda batch: Signals(logits=torch.tensor([[4.0, 0.0]]))
    >>> unsure = lambda batch: Signals(logits=torch.tensor([[0.0, 0.0]]))
    >>> TeacherEnsemble([sure, unsure], weights=[3, 1])({}).logits
    tensor([[3., 0.]])

    ```
    """

    def __init__(self, teachers: Sequence[Teacher], weights: Sequence[float] | None = None):
        self.teachers = teachers
        self.weights = normalize_weights(weights, len(teachers))

    def __call__(self, batch: dict[str, torch.Tensor]) -> Signals:
        """Return signals that hold the weighted mean of the teachers' logits."""
        weighted = []
        for weight, teacher in zip(self.weights, self.teachers, strict=True):
            logits = teacher(batch).logits
            assert logits is not None  # only a bare encoder has none, and there is no ensemble of those
            weighted.append(weight * logits)
        return Signals(logits=sum(weighted[1:], weighted[0]))


def normalize_weights(weights: Sequence[float] | None, teachers: int) -> list[float]:
    """Return one weight per teacher, scaled so that they add up to 1; `None` means equal weights.

    Raises:
        InputError: if the number of weights differs from that of teachers, a weight is negative, or all are 0.
    """
    weights = [1.0] * teachers if weights is None else list(weights)
    if len(weights) != teachers or min(weights) < 0 or sum(weights) == 0:
        raise InputError(
            f"teacher_weights={weights} for {teachers} teacher{'s' if teachers > 1 else ''}; "
            "give each a weight, none of them negative and not all 0"
        )
    return [weight / sum(weights) for weight in weights]


class CachedTeacher:
    """Read the teacher's logits from the batch, where `SoftLabels.attach` put them in the student's order of labels."""

    def __call__(self, batch: dict[str, torch.Tensor]) -> Signals:
        """Return signals that hold the logits of the batch's column `teacher_logits`."""
        return Signals(logits=batch[TEACHER_LOGITS])
