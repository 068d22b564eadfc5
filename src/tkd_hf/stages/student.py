"""The student of a run: its shape, or where it comes from."""

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from ..adapters import LoraArguments
from ..data.tasks import Task
from ..errors import InputError
from ..labels import label_names
from ..model_loading import load_classifier, load_classifier_if_trained, load_encoder, load_for_training
from ..student import classifier_from_base, student_from_teacher


@dataclass(frozen=True)
class StudentArguments:
    """The student's shape, or where it comes from.

    Args:
        layers: number of layers, taken evenly from the teacher, or the teacher's layers by index (from 0).
        heads: attention heads a layer; by default the teacher's.
        intermediate_size: width of the feed-forward layers; by default the teacher's.
        student: folder or Hub id of a student to start from instead, perhaps with another tokenizer: a classifier, or a
            pre-trained encoder, which gets one.
        dropout: of a student that is cut out of the teacher, everywhere in it. By default none: answers of a teacher
            keep it from learning by heart, and without dropout it learns more in as many steps
            (examples/paper/results/tuning.md), and faster.

    Raises:
        InputError: for a shape or dropout beside a student, or a dropout that is no probability.
    """

    layers: int | tuple[int, ...] | None = None
    heads: int | None = None
    intermediate_size: int | None = None
    student: str | None = None
    dropout: float | None = None

    def __post_init__(self):
        given = {name: value for name, value in vars(self).items() if name != "student" and value is not None}
        check_dropout(self.dropout)
        if self.student and given:
            raise InputError(
                f"the student {self.student!r} is made already, but {given} are of one that is cut out of the teacher; "
                "give only one of the two"
            )


def make_student(
    teacher: str, student: StudentArguments, task: Task, lora: LoraArguments | None = None
) -> PreTrainedModel:
    """The student before training: cut out of the teacher, or loaded, with the task's classes in the data's order.

    Args:
        teacher: folder or Hub id.
        student: the shape, or what to load: a classifier, or an encoder, which takes the teacher's classifier where
            the widths fit and a new one where they do not.
        task: what the data asks for.
        lora: with `adapter_only`, the student is a base for the adapter, which has the classifier.
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


def check_dropout(dropout: float | None) -> None:
    """That it is a probability below 1, or left out."""
    if dropout is not None and not 0 <= dropout < 1:
        raise InputError(f"dropout={dropout} is no probability below 1; 0 turns it off")


def dropout_fields(dropout: float | None) -> dict[str, float]:
    """The fields of `TKDConfig` that turn it on everywhere; none by default."""
    fields = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
    return {} if dropout is None else dict.fromkeys(fields, dropout)


def shape_arguments(
    layers: int | tuple[int, ...] | None, heads: int | None, intermediate_size: int | None
) -> dict[str, Any]:
    """The shape to cut out of a teacher, as `student_from_teacher` takes it: `layers` says how many, or which."""
    counted = isinstance(layers, int) or layers is None
    chosen = {"num_hidden_layers": layers} if counted else {"layers": list(layers)}
    return chosen | {"num_attention_heads": heads, "intermediate_size": intermediate_size}
