"""Bootstrap intervals and McNemar's test equal those of scipy and statsmodels on the same predictions."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar

from tkd_hf.core.statistics import bootstrap, confidence_interval, mcnemar
from tkd_hf.evaluation.metrics import metric_functions
from tkd_hf.evaluation.predictions import Predictions


@pytest.fixture
def predictions():
    """Predictions for 400 examples of two classes, seven in eight of them correct."""
    rng = np.random.default_rng(3)
    labels = rng.integers(2, size=400)
    correct = rng.random(400) < 0.875
    predicted = np.where(correct, labels, 1 - labels)
    return Predictions(np.eye(2, dtype=np.float32)[predicted] * 3, labels, "single_label_classification")


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews_correlation"])
def test_bootstrap_intervals_equal_those_of_scipy(predictions, metric):
    """The ends are quantiles of 2,000 random resamples, so the two agree to within a tenth of the width."""
    (statistic,) = metric_functions(predictions, (metric,))
    ours = confidence_interval(bootstrap([statistic], 400, resamples=2000))
    theirs = stats.bootstrap(
        (np.arange(400),), statistic, vectorized=False, method="percentile", n_resamples=2000, rng=1
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.1 * width)


def test_bootstrap_intervals_of_accuracy_equal_the_normal_approximation(predictions):
    (statistic,) = metric_functions(predictions, ("accuracy",))
    share = predictions.correct.mean()
    error = 1.96 * (share * (1 - share) / 400) ** 0.5
    assert confidence_interval(bootstrap([statistic], 400)) == pytest.approx((share - error, share + error), abs=0.006)


def test_all_statistics_see_the_same_resamples(predictions):
    """The difference of two equal models is therefore exactly zero."""
    equal_statistics = metric_functions(predictions, ("accuracy",)) * 2
    values = bootstrap(equal_statistics, 400, resamples=50)
    assert values.shape == (50, 2)
    assert (values[:, 0] == values[:, 1]).all()
    assert len(np.unique(values)) > 5


def test_the_seed_decides_the_resamples(predictions):
    (statistic,) = metric_functions(predictions, ("accuracy",))
    first, same_seed, other_seed = (bootstrap([statistic], 400, 20, seed) for seed in (0, 0, 1))
    assert (first == same_seed).all()
    assert (first != other_seed).any()


@pytest.mark.parametrize(("only_first", "only_second"), [(25, 27), (31, 12), (0, 7), (1, 0), (0, 0)])
def test_mcnemar_equals_that_of_statsmodels(only_first, only_second):
    reference = reference_mcnemar([[100, only_first], [only_second, 100]], exact=True).pvalue
    assert mcnemar(only_first, only_second) == pytest.approx(1.0 if only_first == only_second == 0 else reference)
