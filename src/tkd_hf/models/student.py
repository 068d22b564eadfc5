"""Build a student from a teacher: choose its layers and widths, and copy the weights that fit."""

import copy
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedModel

from ..core.errors import InputError
from ..core.names import label_names as label_names_of
from ..core.names import label_order
from .architectures import TKD_CLASSES, head_of_class, head_type, is_convertible
from .configuration_tkd import TKDConfig
from .conversion import tkd_config_from, tkd_state_dict_from
from .layer_map import uniform_layers
from .loading import load_config, load_with_head
from .modeling_tkd import TKDPreTrainedModel


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudentReport:
    """Origin of the weights of a new student. `str(report)` is a summary in a few lines.

    Attributes:
        teacher: the teacher's name or path, or its class if it has neither.
        layers: the teacher layer (from 0) that each student layer was copied from.
        teacher_layers: number of teacher layers.
        copied: names of the parameters copied in full.
        narrowed: names of the parameters copied in part, for the strongest heads and feed-forward neurons.
        initialised: names of the parameters initialised at random, as the teacher has none that fit.
        student_parameters, teacher_parameters: numbers of weights.
    """

    teacher: str
    layers: tuple[int, ...]
    teacher_layers: int
    copied: tuple[str, ...]
    narrowed: tuple[str, ...]
    initialised: tuple[str, ...]
    student_parameters: int
    teacher_parameters: int

    def __str__(self) -> str:
        layers = ", ".join(map(str, self.layers))
        return (
            f"student of {len(self.layers)} layers from {self.teacher} (layers {layers} of {self.teacher_layers}): "
            f"{self.student_parameters / 1e6:.1f} M parameters, teacher {self.teacher_parameters / 1e6:.1f} M\n"
            f"  tensors copied in full: {len(self.copied)}, in part: {len(self.narrowed)}; "
            f"initialised at random: {', '.join(self.initialised) or 'none'}"
        )


def student_from_teacher(
    teacher: PreTrainedModel | str | os.PathLike[str],
    *,
    model_class: type[TKDPreTrainedModel] | None = None,
    num_hidden_layers: int | None = None,
    layers: list[int] | None = None,
    num_attention_heads: int | None = None,
    intermediate_size: int | None = None,
    label_names: list[str] | None = None,
    **config_overrides: Any,
) -> TKDPreTrainedModel:
    """Build a TKD student that starts from the teacher's weights wherever they fit, including the classifier.

    Use it before distillation: a student that starts from its teacher's layers needs far less training than one that
    starts at random (DistilBERT, arXiv 1910.01108). Fewer layers make it faster; keep the hidden size, because weights
    of another hidden size do not fit and are initialised at random. The first thing to check if a student learns slowly
    is `student.init_report`, which lists those weights. Two calls with the same torch seed build the same student.

    Args:
        teacher: a bert, roberta, distilbert, electra or tkd model, or one of another architecture that was registered
            (`register_architecture`); or its name or path. It does not change and shares no tensor with the student.
        model_class: the student's class, such as `TKDForSequenceClassification`; by default the one with the teacher's
            kind of head. If the heads differ, only the encoder is copied and the head is initialised at random.
        num_hidden_layers: number of teacher layers to keep, evenly spread and ending in the last one
            (`uniform_layers`). All by default.
        layers: the teacher layers to keep, ascending from 0, instead of `num_hidden_layers`. A student with more layers
            than its teacher repeats some of them.
        num_attention_heads: heads to keep per layer, at most as many as the teacher has. The strongest heads stay
            (`narrow_layer`), at their width. All by default.
        intermediate_size: feed-forward neurons to keep per layer, chosen in the same way. All by default.
        label_names: the student's labels in the order of its logits; the rows of the classifier are reordered by name.
            By default the teacher's labels.
        config_overrides: any other field of `TKDConfig`, such as `hidden_dropout_prob`, or `heads_per_layer` for layers
            of different widths. Weights whose shape this changes are initialised at random.

    Returns:
        The student in float32, on the teacher's device and in evaluation mode, as `from_pretrained` returns a model.
        `student.init_report` is its `StudentReport`, which is also logged at level info.

    Raises:
        InputError: if the teacher has too few layers, heads or neurons, another architecture, other labels, or
            quantized weights.
        TypeError: if `teacher` is neither a `PreTrainedModel` nor a name or path.

    Example:

    ```python
    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> from tkd_hf import student_from_teacher

    >>> teacher = BertForSequenceClassification(BertConfig(num_hidden_layers=6))
    >>> student = student_from_teacher(teacher, num_hidden_layers=3)
    >>> type(student).__name__, student.init_report.layers
    ('TKDForSequenceClassification', (1, 3, 5))

    ```
    """
    teacher = _load_if_named(teacher, model_class)
    model_class = model_class or TKD_CLASSES[head_type(teacher)]
    teacher_config = tkd_config_from(teacher.config)
    layers = choose_layers(teacher_config.num_hidden_layers, num_hidden_layers, layers)
    widths = {"num_attention_heads": num_attention_heads, "intermediate_size": intermediate_size}
    config = _student_config(teacher_config, layers, widths, config_overrides)

    weights = _encoder_and_head(teacher, model_class)
    if label_names is not None:
        _name_labels(config, weights, label_names)
    weights, narrowed = _student_weights(weights, layers, teacher_config, config)

    student = model_class(config)
    copied, initialised = _copy_weights(student, weights)
    student.init_report = StudentReport(
        teacher=teacher.config.name_or_path or type(teacher).__name__,
        layers=tuple(layers),
        teacher_layers=teacher_config.num_hidden_layers,
        copied=tuple(name for name in copied if _without_prefix(name) not in narrowed),
        narrowed=tuple(name for name in copied if _without_prefix(name) in narrowed),
        initialised=tuple(initialised),
        student_parameters=student.num_parameters(),
        teacher_parameters=teacher.num_parameters(),
    )
    logger.info(str(student.init_report))
    student.to(teacher.device)  # type: ignore[arg-type]  # transformers wraps `to` without types
    return student.eval()


def classifier_from_base(base: PreTrainedModel, teacher: PreTrainedModel) -> TKDPreTrainedModel:
    """Build a classifier for the teacher's labels from a pre-trained encoder.

    If encoder and teacher have the same hidden size, the student also starts from the teacher's head, which fits if the
    encoder was distilled from a similar model. Otherwise the head is initialised at random. Which of the two happened
    is logged at level info.

    Args:
        base: an encoder of an architecture that `student_from_teacher` takes, with or without a masked-LM head.
        teacher: a classifier of texts or tokens, of any architecture. The student has the same kind of head.

    Raises:
        InputError: if `student_from_teacher` does not take the base's architecture.
    """
    config = teacher.config
    head_fits = is_convertible(config) and config.hidden_size == base.config.hidden_size
    fields: dict[str, Any] = {name: copy.copy(getattr(config, name)) for name in ("id2label", "label2id")}
    fields["problem_type"] = config.problem_type
    if head_fits:
        fields["pooler_act"] = tkd_config_from(config).pooler_act
    student = student_from_teacher(base, model_class=TKD_CLASSES[head_type(teacher)], **fields)
    if head_fits:
        weights = tkd_state_dict_from(teacher)
        head_weights = {name: weight for name, weight in weights.items() if not name.startswith("tkd.")}
        copied, _ = _copy_weights(student, head_weights)
        report: StudentReport = student.init_report
        initialised = tuple(name for name in report.initialised if name not in copied)
        student.init_report = replace(report, copied=(*report.copied, *copied), initialised=initialised)
    logger.info("  its classifier %s", "is the teacher's" if head_fits else "is initialised at random")
    return student


def choose_layers(teacher_layers: int, num_hidden_layers: int | None, layers: list[int] | None) -> list[int]:
    """Return the teacher layers (from 0) for a student: `layers`, or `num_hidden_layers` layers evenly spread.

    Raises:
        InputError: if the teacher does not have them, if they do not ascend, or if the two arguments contradict each
            other.
    """
    if layers is None:
        num_hidden_layers = teacher_layers if num_hidden_layers is None else num_hidden_layers
        if not 1 <= num_hidden_layers <= teacher_layers:
            raise InputError(
                f"num_hidden_layers={num_hidden_layers} for a teacher of {teacher_layers} layers; "
                f"choose from 1 to {teacher_layers}"
            )
        return uniform_layers(num_hidden_layers, teacher_layers)
    layers = list(layers)
    if num_hidden_layers not in (None, len(layers)):
        raise InputError(f"num_hidden_layers={num_hidden_layers} but layers={layers} has {len(layers)}; give only one")
    if not layers or not all(0 <= layer < teacher_layers for layer in layers):
        raise InputError(
            f"layers={layers} for a teacher of {teacher_layers} layers; choose layers from 0 to {teacher_layers - 1}"
        )
    repeats = len(set(layers)) < len(layers)
    if layers != sorted(layers) or (repeats and len(layers) <= teacher_layers):
        raise InputError(
            f"layers={layers} must ascend, and may repeat only if the student has more layers than the teacher's "
            f"{teacher_layers}; did you mean {sorted(set(layers))}?"
        )
    return layers


def narrow_layer(
    weights: Mapping[str, torch.Tensor], *, heads: int, head_dim: int, neurons: int
) -> dict[str, torch.Tensor]:
    """Reduce one layer to its strongest heads and neurons, which keep their order.

    The strength of a head or neuron is the Euclidean norm of all its incoming and outgoing weights (magnitude pruning,
    arXiv 1506.02626, applied to whole units as in arXiv 1608.08710).

    Args:
        weights: the layer's parameters by their names in `TKDLayer`.
        heads: number of heads to keep.
        head_dim: width of a head.
        neurons: number of feed-forward neurons to keep.

    Returns:
        The parameters that became smaller, as new tensors; empty if none did.
    """
    query, key, value = (weights[f"attention.{name}.weight"] for name in ("query", "key", "value"))
    output = weights["attention.output.weight"]
    attention_rows = torch.cat((query, key, value, output.T), dim=1)  # (heads * head_dim, 4 * hidden_size)
    head_of_row = (torch.arange(attention_rows.shape[0]) // head_dim).to(output.device)
    strongest_heads = _strongest(attention_rows.unflatten(0, (-1, head_dim)).flatten(1), heads)
    rows = torch.isin(head_of_row, strongest_heads).nonzero().flatten()

    intermediate, neuron_output = weights["feed_forward.intermediate.weight"], weights["feed_forward.output.weight"]
    neuron_rows = _strongest(torch.cat((intermediate, neuron_output.T), dim=1), neurons)

    narrowed: dict[str, torch.Tensor] = {}
    if len(rows) < attention_rows.shape[0]:
        narrowed |= _select_rows(weights, rows, modules=("attention.query", "attention.key", "attention.value"))
        narrowed["attention.output.weight"] = output[:, rows]
    if len(neuron_rows) < intermediate.shape[0]:
        narrowed |= _select_rows(weights, neuron_rows, modules=("feed_forward.intermediate",))
        narrowed["feed_forward.output.weight"] = neuron_output[:, neuron_rows]
    return narrowed


def _strongest(units: torch.Tensor, count: int) -> torch.Tensor:
    """Return the indices of the `count` rows with the largest norms, ascending."""
    return units.float().norm(dim=1).topk(count).indices.sort().values


def _select_rows(
    weights: Mapping[str, torch.Tensor], rows: torch.Tensor, modules: Sequence[str]
) -> dict[str, torch.Tensor]:
    names = [f"{module}.{parameter}" for module in modules for parameter in ("weight", "bias")]
    return {name: weights[name][rows] for name in names}


def _load_if_named(teacher: object, model_class: type[TKDPreTrainedModel] | None) -> PreTrainedModel:
    if isinstance(teacher, PreTrainedModel):
        return teacher
    if not isinstance(teacher, (str, os.PathLike)):
        raise TypeError(
            f"teacher is a {type(teacher).__name__}, but must be a PreTrainedModel, or its name or path; "
            "for a PEFT model pass model.merge_and_unload()"
        )
    if model_class is None:
        architectures = load_config(str(teacher)).architectures
        if not architectures:
            raise InputError(
                f"the configuration of {teacher} does not name an architecture; pass model_class, or the loaded model"
            )
        head = head_of_class(architectures[0])
    else:
        head = head_type(model_class)
    return load_with_head(teacher, head, new_head=True)


def _student_config(
    teacher: TKDConfig, layers: list[int], widths: dict[str, int | None], overrides: dict[str, Any]
) -> TKDConfig:
    """Return the teacher's configuration reduced to some layers, heads and neurons, with the overrides applied."""
    heads = _layer_widths([teacher.heads_of(layer) for layer in layers], widths, "num_attention_heads")
    neurons = _layer_widths([teacher.intermediate_size_of(layer) for layer in layers], widths, "intermediate_size")
    fields = teacher.to_dict() | {
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(heads),
        "intermediate_size": max(neurons),
        "heads_per_layer": heads if len(set(heads)) > 1 else None,
        "intermediate_sizes": neurons if len(set(neurons)) > 1 else None,
    }
    for name in ("dtype", "architectures", "transformers_version", "model_type", "auto_map"):
        fields.pop(name, None)  # these describe the teacher's checkpoint, not its shape
    return TKDConfig(**fields | overrides)


def _layer_widths(teacher_widths: list[int], widths: Mapping[str, int | None], name: str) -> list[int]:
    width, widest = widths[name], max(teacher_widths)
    if width is None:
        return teacher_widths
    if not 1 <= width <= widest:
        raise InputError(
            f"{name}={width} for a teacher with {widest}; a student keeps a part of its teacher, so choose from 1 to "
            f"{widest}"
        )
    return [min(width, teacher_width) for teacher_width in teacher_widths]


def _encoder_and_head(teacher: PreTrainedModel, model_class: type[TKDPreTrainedModel]) -> dict[str, torch.Tensor]:
    """Return the encoder's weights by their names in `TKDModel`, and the head's if the student has the same head."""
    weights = {_without_prefix(name): weight for name, weight in tkd_state_dict_from(teacher).items()}
    if head_type(teacher) == head_type(model_class):
        return weights
    return {name: weight for name, weight in weights.items() if name.startswith(("embeddings.", "layers."))}


def _without_prefix(name: str) -> str:
    return name.removeprefix("tkd.")


def _name_labels(config: TKDConfig, weights: dict[str, torch.Tensor], label_names: list[str]) -> None:
    """Set the labels in `config`, and reorder the classifier's rows in `weights` if it has one, in place."""
    if "classifier.weight" in weights:
        rows = label_order(label_names_of(config), label_names, "teacher", "student")
        weights |= {name: weights[name][rows] for name in ("classifier.weight", "classifier.bias")}
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: index for index, name in enumerate(label_names)}


def _student_weights(
    weights: dict[str, torch.Tensor], layers: list[int], teacher: TKDConfig, student: TKDConfig
) -> tuple[dict[str, torch.Tensor], set[str]]:
    """Return the teacher's weights under the student's names, and the names of those that were narrowed."""
    student_weights = {name: weight for name, weight in weights.items() if not name.startswith("layers.")}
    narrowed: set[str] = set()
    assert teacher.head_dim is not None  # TKDConfig.__post_init__ sets it
    for index, layer in enumerate(layers):
        prefix = f"layers.{layer}."
        layer_weights = {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}
        smaller = narrow_layer(
            layer_weights,
            heads=min(student.heads_of(index), teacher.heads_of(layer)),
            head_dim=teacher.head_dim,
            neurons=min(student.intermediate_size_of(index), teacher.intermediate_size_of(layer)),
        )
        student_weights |= {f"layers.{index}.{name}": weight for name, weight in (layer_weights | smaller).items()}
        narrowed |= {f"layers.{index}.{name}" for name in smaller}
    return student_weights, narrowed


def _copy_weights(student: TKDPreTrainedModel, weights: dict[str, torch.Tensor]) -> tuple[list[str], list[str]]:
    """Copy the weights that fit into the student; return the names of those copied and of those left."""
    copied, initialised = [], []
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            weight = weights.get(_without_prefix(name))
            if weight is not None and weight.shape == parameter.shape:
                parameter.copy_(weight)
                copied.append(name)
            else:
                initialised.append(name)
    return copied, initialised
