"""Layer maps: from which teacher layer each student layer is initialised or learns."""

from collections.abc import Sequence

from torch import nn

from ..core.errors import InputError


def uniform_layers(num_hidden_layers: int, teacher_layers: int) -> list[int]:
    """Return evenly spread teacher layers that end in the last one.

    Student layer k of n, counted from 1, gets teacher layer `k * teacher_layers // n - 1`, counted from 0.

    Args:
        num_hidden_layers: number of student layers, at most `teacher_layers`.
        teacher_layers: number of teacher layers.

    Returns:
        One teacher layer (from 0) per student layer.

    Example:

    ```python
    >>> from tkd_hf.models.layer_map import uniform_layers

    >>> uniform_layers(3, 6), uniform_layers(2, 6), uniform_layers(4, 6)
    ([1, 3, 5], [2, 5], [0, 2, 3, 5])

    ```
    """
    return [k * teacher_layers // num_hidden_layers - 1 for k in range(1, num_hidden_layers + 1)]


def last_layers(num_hidden_layers: int, teacher_layers: int) -> list[int]:
    """Return the last teacher layers, one per student layer."""
    return list(range(teacher_layers - num_hidden_layers, teacher_layers))


def skip_layers(num_hidden_layers: int, teacher_layers: int) -> list[int]:
    """Return evenly spread teacher layers that begin with the first, as in DistilBERT: 0, 2, 4 of six layers."""
    return [k * teacher_layers // num_hidden_layers for k in range(num_hidden_layers)]


LAYER_MAPS = {"uniform": uniform_layers, "last": last_layers, "skip": skip_layers}


def layer_map(choice: str | Sequence[int], num_hidden_layers: int, teacher_layers: int) -> list[int]:
    """Return the teacher layer for each student layer, both counted from 0.

    Args:
        choice: `"uniform"` (evenly spread, ending in the last layer: the best of the three in TinyBERT, arXiv
            1909.10351), `"last"` (the last layers), `"skip"` (evenly spread, beginning with the first layer, as in
            DistilBERT, arXiv 1910.01108), or the teacher layers themselves, as a list or as text such as `"1,3,5"`.
        num_hidden_layers: number of student layers.
        teacher_layers: number of teacher layers.

    Raises:
        InputError: if `choice` is neither a name nor a list of layers, if the number of layers is not that of the
            student, or if the teacher does not have one of the layers.

    Example:

    ```python
    >>> from tkd_hf.models.layer_map import layer_map

    >>> [layer_map(choice, 3, 6) for choice in ("uniform", "last", "skip", "0,2,5")]
    [[1, 3, 5], [3, 4, 5], [0, 2, 4], [0, 2, 5]]

    ```
    """
    if isinstance(choice, str) and choice in LAYER_MAPS:
        if num_hidden_layers > teacher_layers:
            repeated = (str(k * teacher_layers // num_hidden_layers) for k in range(num_hidden_layers))
            raise InputError(
                f"layer_map={choice!r} cannot spread {num_hidden_layers} student layers over {teacher_layers} teacher "
                f"layers; name a teacher layer for each student layer, such as {','.join(repeated)}"
            )
        return LAYER_MAPS[choice](num_hidden_layers, teacher_layers)
    layers = _parse_layers(choice)
    if len(layers) != num_hidden_layers:
        raise InputError(
            f"layer_map={choice!r} names {len(layers)} layers for a student of {num_hidden_layers}; name one teacher "
            "layer per student layer"
        )
    if not all(0 <= layer < teacher_layers for layer in layers):
        raise InputError(
            f"layer_map={choice!r} for a teacher of {teacher_layers} layers; choose layers from 0 to "
            f"{teacher_layers - 1}"
        )
    return layers


def source_layers(student: nn.Module, num_hidden_layers: int, teacher_layers: int) -> tuple[int, ...] | None:
    """Return the teacher layers that a student was built from, if it knows them and its depth has not changed.

    Args:
        student: a model; `tkd_hf.student_from_teacher` gives it an `init_report`.
        num_hidden_layers: number of student layers.
        teacher_layers: number of teacher layers.
    """
    report = getattr(student, "init_report", None)
    if report is None or (len(report.layers), report.teacher_layers) != (num_hidden_layers, teacher_layers):
        return None
    return report.layers


def _parse_layers(choice: str | Sequence[int]) -> list[int]:
    try:
        return [int(layer) for layer in (choice.strip("[]").split(",") if isinstance(choice, str) else choice)]
    except (TypeError, ValueError):
        raise InputError(
            f"layer_map={choice!r} is neither {', '.join(LAYER_MAPS)} nor a list of teacher layers such as 1,3,5"
        ) from None
