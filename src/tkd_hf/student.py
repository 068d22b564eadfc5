"""Build a student from a teacher: which layers, how wide, with which weights."""

import logging
import os
from dataclasses import dataclass, replace

import torch
from transformers import AutoConfig, PreTrainedModel

from .configuration_tkd import TKDConfig
from .conversion import ARCHITECTURES, TKD_CLASSES, head_type, tkd_config_from, tkd_state_dict_from
from .errors import InputError
from .labels import label_names as names_of
from .labels import label_order
from .layer_map import uniform_layers
from .modeling_tkd import TKDPreTrainedModel
from .registration import MODEL_CLASSES


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudentReport:
    """Where the weights of a new student come from; `str()` says it in a few lines.

    Attributes:
        teacher: the teacher's name or path, or its class where it has none.
        layers: the teacher layer (0-based) that each student layer was taken from.
        teacher_layers: how many layers the teacher has.
        copied: parameters copied whole.
        narrowed: parameters copied in part: the strongest heads and feed-forward neurons.
        initialised: parameters the teacher could not give, drawn at random.
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
            f"student of {len(self.layers)} layers from {self.teacher} (its layers {layers} of {self.teacher_layers}): "
            f"{self.student_parameters / 1e6:.1f} M parameters, teacher {self.teacher_parameters / 1e6:.1f} M\n"
            f"  copied whole: {len(self.copied)} tensors; in part: {len(self.narrowed)}; "
            f"initialised: {', '.join(self.initialised) or 'none'}"
        )


def student_from_teacher(
    teacher: PreTrainedModel | str | os.PathLike,
    *,
    model_class: type[TKDPreTrainedModel] | None = None,
    num_hidden_layers: int | None = None,
    layers: list[int] | None = None,
    num_attention_heads: int | None = None,
    intermediate_size: int | None = None,
    label_names: list[str] | None = None,
    **config_overrides,
) -> TKDPreTrainedModel:
    """A TKD student that starts from the teacher's weights wherever they fit, the classifier included.

    Starting from the teacher's own layers is what makes distillation short (DistilBERT, arXiv 1910.01108). The teacher
    is never changed, and shares no tensor with the student. Two calls under the same seed give the same student.

    Args:
        teacher: a bert, roberta, distilbert, electra or tkd model, or the name or path of one.
        model_class: the student's class; the teacher's kind of head by default. With another head than the teacher's,
            the encoder is copied and the head initialised.
        num_hidden_layers: how many of the teacher's layers to keep, spread evenly (`uniform_layers`); all by default.
        layers: which of the teacher's layers to keep (0-based, ascending) instead. A student deeper than its teacher
            takes some of them twice, or more often.
        num_attention_heads: heads of each layer, at most the teacher's; the strongest stay (`narrow_layer`). The width
            of a head stays what it is.
        intermediate_size: feed-forward neurons of each layer, likewise.
        label_names: the student's labels in this order; the classifier's rows follow their names. By default the
            teacher's own.
        config_overrides: any other field of `TKDConfig`, such as `hidden_dropout_prob`, or `heads_per_layer` for an
            uneven student. Weights of a shape that this changes are initialised.

    Returns:
        The student, in fp32 (it is to be trained), on the teacher's device, in evaluation mode like a model from
        `from_pretrained`. `student.init_report` is a `StudentReport`, also logged at level info.

    Raises:
        InputError: the teacher is too small, too different, or has other labels; the message names both values.
        TypeError: `teacher` is no `PreTrainedModel`.

    Example:

    ```python
    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> from tkd_hf import TKDForSequenceClassification

    >>> teacher = BertForSequenceClassification(BertConfig(num_hidden_layers=6))
    >>> student = TKDForSequenceClassification.from_teacher(teacher, num_hidden_layers=3)
    >>> student.init_report.layers
    (1, 3, 5)

    ```
    """
    teacher = _loaded(teacher, model_class)
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
        copied=tuple(name for name in copied if _inner(name) not in narrowed),
        narrowed=tuple(name for name in copied if _inner(name) in narrowed),
        initialised=tuple(initialised),
        student_parameters=student.num_parameters(),
        teacher_parameters=teacher.num_parameters(),
    )
    logger.info(str(student.init_report))
    return student.to(teacher.device).eval()


def classifier_from_base(base: PreTrainedModel, teacher: PreTrainedModel) -> TKDPreTrainedModel:
    """A classifier on a pre-trained encoder, for the teacher's labels; with the teacher's own head where it fits.

    A head fits if encoder and teacher are of one width: an encoder that was distilled from the teacher's kind may then
    read as the teacher does. Otherwise it is initialised. Which of the two is logged at level info.

    Args:
        base: an encoder of a kind that `student_from_teacher` takes, with or without a masked-LM head.
        teacher: a classifier of texts, or of tokens, of any architecture; the student is of the same kind.

    Raises:
        InputError: the base is of another architecture.
    """
    config, fields = teacher.config, {}
    convertible = config.model_type in (*ARCHITECTURES, TKDConfig.model_type)
    fits = convertible and config.hidden_size == base.config.hidden_size
    if fits:
        fields["pooler_act"] = tkd_config_from(config).pooler_act
    labels = {"id2label": dict(config.id2label), "label2id": dict(config.label2id), "problem_type": config.problem_type}
    student = student_from_teacher(base, model_class=TKD_CLASSES[head_type(teacher)], **labels, **fields)
    if fits:
        weights = tkd_state_dict_from(teacher)
        head, _ = _copy_weights(student, {name: weights[name] for name in weights if not name.startswith("tkd.")})
        report = student.init_report
        fresh = tuple(name for name in report.initialised if name not in head)
        student.init_report = replace(report, copied=(*report.copied, *head), initialised=fresh)
    logger.info(f"  its classifier is {'that of the teacher' if fits else 'new'}")
    return student


def choose_layers(teacher_layers: int, num_hidden_layers: int | None, layers: list[int] | None) -> list[int]:
    """The teacher layers (0-based) a student takes: those named in `layers`, or `num_hidden_layers` uniform ones.

    Raises:
        InputError: the teacher does not have them, they are not ascending, or the two arguments contradict each other.
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
            f"layers={layers} for a teacher of {teacher_layers} layers; name some from 0 to {teacher_layers - 1}"
        )
    repeats = len(set(layers)) < len(layers)
    if layers != sorted(layers) or (repeats and len(layers) <= teacher_layers):
        raise InputError(
            f"layers={layers} must ascend, and repeat only in a student deeper than the teacher's {teacher_layers} "
            f"layers; did you mean {sorted(set(layers))}?"
        )
    return layers


def narrow_layer(weights: dict[str, torch.Tensor], *, heads: int, head_dim: int, neurons: int) -> dict:
    """Keep the strongest heads and neurons of one layer, in their old order.

    Strength is the Euclidean norm of all weights that read or write a head or a neuron: what contributes least to the
    layer's output goes first (magnitude pruning, arXiv 1506.02626; whole units, arXiv 1608.08710).

    Args:
        weights: parameters by their names in `TKDLayer`.
        heads, head_dim, neurons: how many heads of which width, and how many neurons, to keep.

    Returns:
        The parameters that became smaller, new tensors.
    """
    query, key, value = (weights[f"attention.{name}.weight"] for name in ("query", "key", "value"))
    mixing = torch.cat((query, key, value, weights["attention.output.weight"].T), dim=1)  # (heads * head_dim, …)
    units = (torch.arange(mixing.shape[0]) // head_dim).to(mixing.device)
    kept = _strongest(mixing.unflatten(0, (-1, head_dim)).flatten(1), heads)
    rows = torch.isin(units, kept).nonzero().flatten()

    feeding = torch.cat((weights["feed_forward.intermediate.weight"], weights["feed_forward.output.weight"].T), dim=1)
    neuron_rows = _strongest(feeding, neurons)

    narrowed = {}
    if len(rows) < mixing.shape[0]:
        narrowed |= _select(weights, rows, into=("attention.query", "attention.key", "attention.value"))
        narrowed["attention.output.weight"] = weights["attention.output.weight"][:, rows]
    if len(neuron_rows) < feeding.shape[0]:
        narrowed |= _select(weights, neuron_rows, into=("feed_forward.intermediate",))
        narrowed["feed_forward.output.weight"] = weights["feed_forward.output.weight"][:, neuron_rows]
    return narrowed


def _strongest(units: torch.Tensor, count: int) -> torch.Tensor:
    """Ascending indices of the `count` rows of largest norm."""
    return units.float().norm(dim=1).topk(count).indices.sort().values


def _select(weights: dict, rows: torch.Tensor, into: tuple[str, ...]) -> dict:
    names = [f"{module}.{parameter}" for module in into for parameter in ("weight", "bias")]
    return {name: weights[name][rows] for name in names}


def _loaded(teacher, model_class: type[TKDPreTrainedModel] | None) -> PreTrainedModel:
    if isinstance(teacher, PreTrainedModel):
        return teacher
    if not isinstance(teacher, (str, os.PathLike)):
        raise TypeError(
            f"teacher is a {type(teacher).__name__}, but a PreTrainedModel or its name or path is needed; "
            "of a PEFT model pass model.merge_and_unload()"
        )
    if model_class is None:
        architectures = AutoConfig.from_pretrained(teacher).architectures
        if not architectures:
            raise InputError(
                f"the configuration of {teacher} does not name its architecture; pass model_class, or the loaded model"
            )
        model_class = TKD_CLASSES[_kind_by_name(architectures[0])]
    auto_class = next(auto for auto, tkd in MODEL_CLASSES.items() if issubclass(model_class, tkd))
    return auto_class.from_pretrained(teacher)


def _kind_by_name(class_name: str) -> str:
    return head_type(type(class_name, (), {}))


def _student_config(teacher: TKDConfig, layers: list[int], widths: dict, overrides: dict) -> TKDConfig:
    """The teacher's configuration with fewer layers, narrower where asked."""
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
        fields.pop(name, None)  # facts about the teacher's checkpoint, not about its shape
    return TKDConfig(**fields | overrides)


def _layer_widths(of_teacher: list[int], widths: dict, name: str) -> list[int]:
    wanted = widths[name]
    if wanted is None:
        return of_teacher
    if not 1 <= wanted <= max(of_teacher):
        raise InputError(
            f"{name}={wanted} for a teacher with {max(of_teacher)}; a student is cut out of its teacher, "
            f"so choose from 1 to {max(of_teacher)}"
        )
    return [min(wanted, width) for width in of_teacher]


def _encoder_and_head(teacher: PreTrainedModel, model_class: type[TKDPreTrainedModel]) -> dict[str, torch.Tensor]:
    """The teacher's weights by their names in `TKDModel`, and those of the head where the student has the same one."""
    weights = {_inner(name): weight for name, weight in tkd_state_dict_from(teacher).items()}
    if head_type(teacher) == head_type(model_class):
        return weights
    return {name: weight for name, weight in weights.items() if name.startswith(("embeddings.", "layers."))}


def _inner(name: str) -> str:
    return name.removeprefix("tkd.")


def _name_labels(config: TKDConfig, weights: dict[str, torch.Tensor], label_names: list[str]):
    """Put the labels, and the classifier's rows if there is one, into this order; changes `config` and `weights`."""
    if "classifier.weight" in weights:
        rows = label_order(names_of(config), label_names, "teacher", "student")
        weights |= {name: weights[name][rows] for name in ("classifier.weight", "classifier.bias")}
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: row for row, name in enumerate(label_names)}


def _student_weights(
    weights: dict[str, torch.Tensor], layers: list[int], teacher: TKDConfig, student: TKDConfig
) -> tuple[dict[str, torch.Tensor], set[str]]:
    """The teacher's weights under the student's names, and the names of those that were narrowed."""
    chosen = {name: weight for name, weight in weights.items() if not name.startswith("layers.")}
    narrowed = set()
    for index, layer in enumerate(layers):
        prefix = f"layers.{layer}."
        of_layer = {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}
        smaller = narrow_layer(
            of_layer,
            heads=min(student.heads_of(index), teacher.heads_of(layer)),
            head_dim=teacher.head_dim,
            neurons=min(student.intermediate_size_of(index), teacher.intermediate_size_of(layer)),
        )
        chosen |= {f"layers.{index}.{name}": weight for name, weight in (of_layer | smaller).items()}
        narrowed |= {f"layers.{index}.{name}" for name in smaller}
    return chosen, narrowed


def _copy_weights(student: TKDPreTrainedModel, weights: dict[str, torch.Tensor]) -> tuple[list[str], list[str]]:
    """Copy what fits into the student; names of what was copied and of what keeps its fresh initialisation."""
    copied, initialised = [], []
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            weight = weights.get(_inner(name))
            if weight is not None and weight.shape == parameter.shape:
                parameter.copy_(weight)
                copied.append(name)
            else:
                initialised.append(name)
    return copied, initialised
