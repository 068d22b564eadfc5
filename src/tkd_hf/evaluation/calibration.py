"""Does a model know how sure it may be? Expected calibration error, and the reliability diagram behind it."""

from dataclasses import dataclass

import numpy as np

from .predictions import Predictions


BINS = 15  # as Guo et al.


@dataclass
class Calibration:
    """Confidence against accuracy.

    Args:
        error: expected calibration error: the mean distance of the two over the bins, weighed by their decisions.
        bins: of equal width, those that hold any decision: `from`, `to`, `confidence`, `accuracy`, `count`.

    Reference:
        Guo et al. 2017, arXiv 1706.04599, equation 3.
    """

    error: float
    bins: list[dict[str, float]]


def calibration(predictions: Predictions) -> Calibration | None:
    """Of all decisions: one an example, or one a token, or one for each label where several may hold.

    `None` for scores, which come without a confidence.
    """
    if predictions.problem_type == "regression":
        return None
    return _binned(*predictions.confidence_and_correctness())


def _binned(confidence: np.ndarray, right: np.ndarray) -> Calibration:
    edges = np.linspace(0, 1, BINS + 1)
    places = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)  # (from, to]
    bins = [
        {
            "from": float(edges[place]),
            "to": float(edges[place + 1]),
            "confidence": float(confidence[places == place].mean()),
            "accuracy": float(right[places == place].mean()),
            "count": int((places == place).sum()),
        }
        for place in np.unique(places)
    ]
    gaps = [part["count"] * abs(part["confidence"] - part["accuracy"]) for part in bins]
    return Calibration(sum(gaps) / len(confidence), bins)
