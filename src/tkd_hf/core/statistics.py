"""The uncertainty of measured results: percentile bootstrap over the examples, and McNemar's exact test."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import binomtest


RESAMPLES = 1000  # enough for some 25 resamples beyond each end of a 95 % interval
CONFIDENCE = 0.95


def bootstrap(
    statistics: Sequence[Callable[[np.ndarray], float]], examples: int, resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """Compute statistics on resampled examples.

    All statistics see the same resamples. The difference of two columns is therefore a paired difference, which varies
    less than the difference of two independent columns.

    Args:
        statistics: functions that return their value for examples chosen by an array of indices, which may repeat.
        examples: the number of examples.
        resamples: the number of resamples, each as large as the data.
        seed: random seed of the resampling.

    Returns:
        (resamples, statistics).

    Reference:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    draws = np.random.default_rng(seed).integers(examples, size=(resamples, examples))
    return np.array([[statistic(draw) for statistic in statistics] for draw in draws])


def confidence_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the range of the middle 95 % of resampled values.

    Example:

    ```python
    >>> import numpy as np
    >>> from tkd_hf.core.statistics import confidence_interval
    >>> [round(end, 3) for end in confidence_interval(np.arange(1001.0))]
    [25.0, 975.0]

    ```
    """
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact p-value of McNemar's test whether two models are equally often correct.

    Args:
        only_first: the number of examples that only the first model gets right.
        only_second: the number of examples that only the second model gets right.

    Reference:
        McNemar 1947; Dietterich 1998, on comparing classifiers with it.
    """
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)
