"""The regression gate: the largest drop of the metric that a compressed model may have."""

from ..core.errors import GateFailed


def check_drop(reference: float, value: float, max_drop: float, metric: str, reference_name: str) -> None:
    """Refuse a model whose metric is more than `max_drop` below that of its reference.

    Args:
        reference: the metric of the model that it was made from; higher is better.
        value: the metric of the model itself.
        max_drop: the largest drop that passes, as an absolute number: 0.005 of accuracy is half a percentage point.
        metric: the name of the metric.
        reference_name: what to call the reference in the message, such as `"the teacher"`.

    Raises:
        GateFailed: if the drop is larger; the message says by how much.

    Example:

    ```python
    >>> from tkd_hf.evaluation.gate import check_drop
    >>> check_drop(0.90, 0.896, 0.005, "accuracy", "the teacher")

    ```
    """
    drop = reference - value
    if drop > max_drop + 1e-12:  # tolerate rounding: 0.90 - 0.895 is slightly more than 0.005 in binary
        raise GateFailed(
            f"the gate was missed by {drop - max_drop:.4f}: {metric} {value:.4f} is {drop:.4f} below {reference_name} "
            f"({reference:.4f}), and max_drop allows {max_drop:g}"
        )
