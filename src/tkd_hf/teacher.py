"""Where the teacher's signals come from: a live model, or soft labels in the batch, behind one call."""

from collections.abc import Iterable, Sequence

import torch
from transformers import PreTrainedModel

from .data.features import TEACHER_LOGITS, is_teacher_feature, teacher_prefix
from .errors import InputError
from .signals import Recorder, Signals, accepted_inputs


class LiveTeacher:
    """Runs the teacher on each batch, without gradients and without dropout.

    The features are those under the teacher's prefix where the batch has them (a teacher with another tokenizer),
    otherwise the student's own.

    Args:
        model: the teacher; neither its weights, nor its mode are changed.
        label_order: for each of the student's labels its place among the teacher's; `None` if the order is the same.
        features: what else to record beside logits, of `tkd_hf.signals.FEATURES`.
        place: of this teacher among several, from 0.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        label_order: list[int] | None = None,
        features: Iterable[str] = (),
        place: int = 0,
    ):
        self.model = model
        self.place = place
        self.label_order = label_order
        self._record = Recorder(model, features)
        self._accepted = accepted_inputs(model)

    def __call__(self, batch: dict[str, torch.Tensor]) -> Signals:
        prefix = teacher_prefix(self.place)
        prefixed = {
            name.removeprefix(prefix): value for name, value in batch.items() if is_teacher_feature(name, self.place)
        }
        features = prefixed or {name: value for name, value in batch.items() if name != "labels"}
        features = {name: value for name, value in features.items() if name in self._accepted}
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                signals, _ = self._record(self.model, features)
        finally:
            self.model.train(was_training)
        if self.label_order is not None:
            signals.logits = signals.logits[..., self.label_order]
        return signals


class TeacherEnsemble:
    """Several teachers as one: the weighted mean of their logits, the geometric mean of their distributions.

    Hinton et al. 2015, arXiv 1503.02531, section 1, name it beside the arithmetic mean; unlike that, it is the same
    for every temperature, and for scores and labels that do not exclude each other.

    Args:
        teachers: each gives logits in the student's order.
        weights: one for each, which need not add up to 1; equal by default.

    Raises:
        InputError: if there are not as many weights as teachers, or if a weight is negative or all are 0.
    """

    def __init__(self, teachers: Sequence["LiveTeacher"], weights: Sequence[float] | None = None):
        self.teachers = teachers
        self.weights = normalize_weights(weights, len(teachers))

    def __call__(self, batch: dict[str, torch.Tensor]) -> Signals:
        answers = zip(self.weights, self.teachers, strict=True)
        return Signals(logits=sum(weight * teacher(batch).logits for weight, teacher in answers))


def normalize_weights(weights: Sequence[float] | None, teachers: int) -> list[float]:
    """The weights of several teachers, equal by default, so that they add up to 1."""
    weights = [1.0] * teachers if weights is None else list(weights)
    if len(weights) != teachers or min(weights) < 0 or sum(weights) == 0:
        raise InputError(
            f"teacher_weights={weights} for {teachers} teacher{'s' if teachers > 1 else ''}; "
            "give each a weight that is not negative, and not 0 to all"
        )
    return [weight / sum(weights) for weight in weights]


class CachedTeacher:
    """Reads the teacher's logits from the batch, where `SoftLabels.attach` put them in the student's order."""

    def __call__(self, batch: dict[str, torch.Tensor]) -> Signals:
        return Signals(logits=batch[TEACHER_LOGITS])
