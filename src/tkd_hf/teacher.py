"""Where the teacher's signals come from: a live model, or soft labels in the batch, behind one call."""

import inspect
from collections.abc import Iterable

import torch
from transformers import PreTrainedModel

from .data.features import TEACHER_LOGITS, TEACHER_PREFIX, is_teacher_feature
from .signals import Recorder, Signals


class LiveTeacher:
    """Runs the teacher on each batch, without gradients and without dropout.

    The features are those under `teacher_` where the batch has them (a teacher with another tokenizer), otherwise the
    student's own.

    Args:
        model: the teacher; neither its weights, nor its mode are changed.
        label_order: for each of the student's labels its place among the teacher's; `None` if the order is the same.
        features: what else to record beside logits, of `tkd_hf.signals.FEATURES`.
    """

    def __init__(self, model: PreTrainedModel, label_order: list[int] | None = None, features: Iterable[str] = ()):
        self.model = model
        self.label_order = label_order
        self._record = Recorder(model, features)
        self._accepted = set(inspect.signature(model.forward).parameters)

    def __call__(self, batch: dict[str, torch.Tensor]) -> Signals:
        prefixed = {
            name.removeprefix(TEACHER_PREFIX): value for name, value in batch.items() if is_teacher_feature(name)
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


class CachedTeacher:
    """Reads the teacher's logits from the batch, where `SoftLabels.attach` put them in the student's order."""

    def __call__(self, batch: dict[str, torch.Tensor]) -> Signals:
        return Signals(logits=batch[TEACHER_LOGITS])
