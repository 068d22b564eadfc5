"""The student of a run: its shape, or the model to start from."""

from typing import Any

from transformers import PreTrainedModel

from ..core.names import label_names
from ..data.tasks import Task
from ..models.arguments import LoraArguments, StudentArguments
from ..models.loading import load_classifier, load_classifier_if_trained, load_encoder, load_for_training
from ..models.student import classifier_from_base, student_from_teacher


def make_student(
    teacher: str, student: StudentArguments, task: Task, lora: LoraArguments | None = None
) -> PreTrainedModel:
    """Cut a student out of the teacher, or load one; its labels are in the order of the data.

    Args:
        teacher: folder or Hub id.
        student: the shape, or an existing student: a classifier, or an encoder, which gets a copy of the teacher's
            classifier if the widths match and a new one otherwise.
        task: the task of the data.
        lora: with `adapter_only`, the student is only a base; the adapter holds the classifier.
    """
    names = task.label_names
    if student.student and lora and lora.adapter_only:
        return load_for_training(student.student, task)
    if student.student:
        model = load_classifier_if_trained(student.student, task.problem_type)
        if model is None:
            base, head = load_encoder(student.student), load_classifier(teacher, task.problem_type)
            model = classifier_from_base(base, head)
        return model if label_names(model.config) == names else student_from_teacher(model, label_names=list(names))
    model = load_classifier(teacher, task.problem_type)
    shape = shape_arguments(student.layers, student.heads, student.intermediate_size)
    return student_from_teacher(
        model, label_names=list(names) or None, **shape, **dropout_fields(student.dropout or 0.0)
    )


def dropout_fields(dropout: float | None) -> dict[str, Any]:
    """Return the fields of `TKDConfig` that set the dropout everywhere; none for `None`."""
    fields = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
    return {} if dropout is None else dict.fromkeys(fields, dropout)


def shape_arguments(
    layers: int | tuple[int, ...] | None, heads: int | None, intermediate_size: int | None
) -> dict[str, Any]:
    """Return a shape as arguments of `student_from_teacher`; `layers` is a number or indices."""
    shape: dict[str, Any] = {"num_attention_heads": heads, "intermediate_size": intermediate_size}
    if layers is None or isinstance(layers, int):
        return {"num_hidden_layers": layers, **shape}
    return {"layers": list(layers), **shape}
