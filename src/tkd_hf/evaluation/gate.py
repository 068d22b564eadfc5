"""The regression gate: how much of the metric a step may cost."""

from ..errors import GateFailed


def check_drop(reference: float, value: float, max_drop: float, metric: str, than: str) -> None:
    """Passes a model whose metric is at most `max_drop` below that of what it was made from.

    Args:
        reference, value: the metric of the two; more is better.
        max_drop: what may be lost, absolute: 0.005 of an accuracy is half a percentage point.
        metric: its name.
        than: what the reference is, such as `"the teacher"`.

    Raises:
        GateFailed: saying by how much.

    Example:

    ```python
    >>> from tkd_hf.evaluation.gate import check_drop
    >>> check_drop(0.90, 0.896, 0.005, "accuracy", "the teacher")

    ```
    """
    drop = reference - value
    if drop > max_drop + 1e-12:  # 0.90 - 0.895 is a little more than 0.005 in binary
        raise GateFailed(
            f"the gate was missed by {drop - max_drop:.4f}: {metric} {value:.4f} is {drop:.4f} below {than} "
            f"({reference:.4f}), and max_drop allows {max_drop:g}"
        )
