"""How far a figure could be off: percentile bootstrap over the examples, and McNemar's exact test."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import binomtest


RESAMPLES = 1000  # the ends of a 95 % interval then rest on some 25 resamples each
CONFIDENCE = 0.95


def bootstrap(
    statistics: Sequence[Callable[[np.ndarray], float]], examples: int, resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """Values of statistics on resampled data.

    All statistics see the same resamples, so that differences between their columns are paired differences.

    Args:
        statistics: each gives its value for a choice of examples, by their indices, with repetitions.
        examples: how many there are.
        resamples: how often as many are drawn anew.
        seed: of the draws.

    Returns:
        (resamples, statistics).

    Reference:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    draws = np.random.default_rng(seed).integers(examples, size=(resamples, examples))
    return np.array([[statistic(draw) for statistic in statistics] for draw in draws])


def confidence_interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of resampled values.

    Example:

    ```python
    >>> import numpy as np
    >>> from tkd_hf.evaluation.intervals import confidence_interval
    >>> [round(end, 3) for end in confidence_interval(np.arange(1001.0))]
    [25.0, 975.0]

    ```
    """
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def mcnemar(only_one: int, only_other: int) -> float:
    """Exact p-value of McNemar's test: could the two models be right equally often?

    Args:
        only_one, only_other: examples that only the one model, only the other gets right.

    Reference:
        McNemar 1947; Dietterich 1998 on comparing classifiers by it.
    """
    if only_one + only_other == 0:
        return 1.0
    return float(binomtest(only_one, only_one + only_other).pvalue)
