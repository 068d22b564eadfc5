"""Calibration: how well the confidence of a model matches its accuracy."""

from dataclasses import dataclass, field

import numpy as np

from .predictions import Predictions


BINS = 15  # as in Guo et al.


@dataclass
class Calibration:
    """The confidence of a model compared with its accuracy.

    Args:
        error: the expected calibration error, from 0 (calibrated) to 1: the mean distance between confidence and
            accuracy over the bins, weighted by the number of decisions in each.
        bins: the data of a reliability diagram: intervals of confidence of equal width with the keys `from`, `to`,
            `confidence`, `accuracy` (both means) and `count`. Bins without decisions are left out.

    Reference:
        Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv 1706.04599, equation 3.
    """

    error: float
    bins: list[dict[str, float]] = field(default_factory=list)


def calibration(predictions: Predictions) -> Calibration | None:
    """Compute the expected calibration error and the reliability diagram behind it.

    Use it if somebody acts on the probabilities, for example by sending uncertain texts to the teacher. A distilled
    student can be as accurate as its teacher and much more, or less, confident.

    Args:
        predictions: one decision counts per example; per labelled token for token classification; per label if an
            example can have several.

    Returns:
        The calibration; `None` for regression, because scores come without a confidence.

    Example:

    ```python
    >>> import numpy as np
    >>> from tkd_hf.evaluation.calibration import calibration
    >>> from tkd_hf.evaluation.predictions import Predictions
    >>> always_sure = np.array([[50.0, 0.0], [50.0, 0.0]])
    >>> calibration(Predictions(always_sure, np.array([0, 1]), "single_label_classification")).error
    0.5

    ```
    """
    if predictions.problem_type.has_scores:
        return None
    return _binned(*predictions.confidence_and_correctness())


def _binned(confidence: np.ndarray, correct: np.ndarray) -> Calibration:
    edges = np.linspace(0, 1, BINS + 1)
    # A bin includes its upper edge.
    bin_indices = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)
    bins = []
    for index in np.unique(bin_indices):
        in_bin = bin_indices == index
        bins.append(
            {
                "from": float(edges[index]),
                "to": float(edges[index + 1]),
                "confidence": float(confidence[in_bin].mean()),
                "accuracy": float(correct[in_bin].mean()),
                "count": int(in_bin.sum()),
            }
        )
    weighted_gaps = [part["count"] * abs(part["confidence"] - part["accuracy"]) for part in bins]
    return Calibration(sum(weighted_gaps) / len(confidence), bins)
