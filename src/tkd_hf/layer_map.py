"""Layer maps: which layer of the teacher each layer of the student is built from and learns from."""

from collections.abc import Sequence

from .errors import InputError


def uniform_layers(num_hidden_layers: int, teacher_layers: int) -> list[int]:
    """Evenly spread layers that end in the teacher's last: the k-th of n (from 1) is `k * teacher_layers // n - 1`.

    Example:

    ```python
    >>> from tkd_hf.layer_map import uniform_layers

    >>> uniform_layers(3, 6), uniform_layers(2, 6), uniform_layers(4, 6)
    ([1, 3, 5], [2, 5], [0, 2, 3, 5])

    ```
    """
    return [k * teacher_layers // num_hidden_layers - 1 for k in range(1, num_hidden_layers + 1)]


def last_layers(num_hidden_layers: int, teacher_layers: int) -> list[int]:
    """The teacher's topmost layers."""
    return list(range(teacher_layers - num_hidden_layers, teacher_layers))


def skip_layers(num_hidden_layers: int, teacher_layers: int) -> list[int]:
    """Evenly spread layers that begin with the teacher's first: every other one for half as many, as in DistilBERT."""
    return [k * teacher_layers // num_hidden_layers for k in range(num_hidden_layers)]


LAYER_MAPS = {"uniform": uniform_layers, "last": last_layers, "skip": skip_layers}


def layer_map(chosen: str | Sequence[int], num_hidden_layers: int, teacher_layers: int) -> list[int]:
    """The teacher's layer for each of the student's, both counted from 0.

    Args:
        chosen: `"uniform"` (TinyBERT's, arXiv 1909.10351, which found it better than the other two), `"last"`,
            `"skip"` (DistilBERT's, arXiv 1910.01108), or the layers themselves, as a list or as `"1,3,5"`.
        num_hidden_layers, teacher_layers: depths of student and teacher.

    Raises:
        InputError: for a name that is none of these, as many layers as the student does not have, or layers that the
            teacher does not have.

    Example:

    ```python
    >>> from tkd_hf.layer_map import layer_map

    >>> [layer_map(chosen, 3, 6) for chosen in ("uniform", "last", "skip", "0,2,5")]
    [[1, 3, 5], [3, 4, 5], [0, 2, 4], [0, 2, 5]]

    ```
    """
    if isinstance(chosen, str) and chosen in LAYER_MAPS:
        if num_hidden_layers > teacher_layers:
            raise InputError(
                f"layer_map={chosen!r} cannot spread {num_hidden_layers} student layers over {teacher_layers} of the "
                "teacher; name a teacher layer for each of them, such as "
                f"{','.join(str(k * teacher_layers // num_hidden_layers) for k in range(num_hidden_layers))}"
            )
        return LAYER_MAPS[chosen](num_hidden_layers, teacher_layers)
    layers = _numbers(chosen)
    if len(layers) != num_hidden_layers:
        raise InputError(
            f"layer_map={chosen!r} names {len(layers)} layers for a student of {num_hidden_layers}; name one for each"
        )
    if not all(0 <= layer < teacher_layers for layer in layers):
        raise InputError(
            f"layer_map={chosen!r} for a teacher of {teacher_layers} layers; name some from 0 to {teacher_layers - 1}"
        )
    return layers


def _numbers(chosen: str | Sequence[int]) -> list[int]:
    try:
        return [int(layer) for layer in (chosen.strip("[]").split(",") if isinstance(chosen, str) else chosen)]
    except (TypeError, ValueError):
        raise InputError(
            f"layer_map={chosen!r} is neither {', '.join(LAYER_MAPS)} nor a list of the teacher's layers such as 1,3,5"
        ) from None
