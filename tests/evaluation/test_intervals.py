"""Bootstrap and McNemar against scipy and statsmodels, on the same predictions."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar

from tkd_hf.evaluation.intervals import bootstrap, confidence_interval, mcnemar
from tkd_hf.evaluation.metrics import metric_functions
from tkd_hf.evaluation.predictions import Predictions


@pytest.fixture
def predictions():
    """Answers to 400 examples of two classes, seven of eight right."""
    draw = np.random.default_rng(3)
    labels = draw.integers(2, size=400)
    right = draw.random(400) < 0.875
    answers = np.where(right, labels, 1 - labels)
    return Predictions(np.eye(2, dtype=np.float32)[answers] * 3, labels, "single_label_classification")


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews_correlation"])
def test_intervals_are_those_of_scipy(predictions, metric):
    """Two seeds of either differ by some tenths of a percentage point: the ends are quantiles of 2,000 draws."""
    (statistic,) = metric_functions(predictions, (metric,))
    ours = confidence_interval(bootstrap([statistic], 400, resamples=2000))
    theirs = stats.bootstrap(
        (np.arange(400),), statistic, vectorized=False, method="percentile", n_resamples=2000, rng=1
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.1 * width)


def test_intervals_are_those_of_the_normal_approximation(predictions):
    (statistic,) = metric_functions(predictions, ("accuracy",))
    share = predictions.correct.mean()
    error = 1.96 * (share * (1 - share) / 400) ** 0.5
    assert confidence_interval(bootstrap([statistic], 400)) == pytest.approx((share - error, share + error), abs=0.006)


def test_statistics_share_their_resamples(predictions):
    """Then the difference of two equal models is exactly nothing."""
    same = metric_functions(predictions, ("accuracy",)) * 2
    values = bootstrap(same, 400, resamples=50)
    assert values.shape == (50, 2)
    assert (values[:, 0] == values[:, 1]).all()
    assert len(np.unique(values)) > 5


def test_a_seed_gives_the_same_interval_again(predictions):
    (statistic,) = metric_functions(predictions, ("accuracy",))
    one, again, other = (bootstrap([statistic], 400, 20, seed) for seed in (0, 0, 1))
    assert (one == again).all()
    assert (one != other).any()


@pytest.mark.parametrize(("one", "other"), [(25, 27), (31, 12), (0, 7), (1, 0), (0, 0)])
def test_mcnemar_is_that_of_statsmodels(one, other):
    reference = reference_mcnemar([[100, one], [other, 100]], exact=True).pvalue
    assert mcnemar(one, other) == pytest.approx(1.0 if one == other == 0 else reference)
