import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import bootstrap

from esamp.errors import UsageError
from esamp.evals import statistics
from esamp.evals.statistics import Cells, Interval, difference, interval, resample

VALUES = st.floats(-5, 5).map(lambda value: round(value, 3))


def cells(values):
    """Cells of means: NaN is undefined."""
    values = np.asarray(values, dtype=float)
    defined = np.isfinite(values)
    return Cells(above=np.where(defined, values, 0), below=defined.astype(float))


def tables():
    """One to three seeds of two to twelve prompts."""
    return st.tuples(st.integers(1, 3), st.integers(2, 12)).flatmap(
        lambda shape: arrays(float, shape, elements=VALUES)
    )


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# -- resamples -------------------------------------------------------------------------------


def test_a_resample_draws_as_many_prompts_as_there_are():
    weights = resample(7)
    assert weights.shape == (statistics.RESAMPLES, 7)
    assert (weights.sum(axis=1) == 7).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(7), abs=0.1)


def test_resamples_are_the_same_each_time_and_leave_numpys_global_state_alone():
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    resample.cache_clear()
    first = resample(5).copy()
    resample.cache_clear()
    assert np.array_equal(resample(5), first)
    assert np.random.random() == expected


def test_shared_resamples_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        resample(3)[0, 0] = 9


@pytest.mark.parametrize("arguments", [(0, 10), (3, 0)])
def test_nothing_to_resample_is_refused(arguments):
    with pytest.raises(UsageError, match="give 1 or more of each"):
        resample(*arguments)


# -- intervals -------------------------------------------------------------------------------


@given(VALUES, st.integers(1, 3), st.integers(2, 10))
def test_a_constant_has_an_interval_without_width(value, seeds, prompts):
    found = interval(cells(np.full((seeds, prompts), value)).ratio, prompts)
    assert (found.low, found.high) == pytest.approx((found.value, found.value))
    assert found.value == pytest.approx(value)


@given(tables())
def test_the_interval_lies_around_the_mean_and_within_the_values(values):
    found = interval(cells(values).ratio, values.shape[1])
    assert found.value == pytest.approx(values.mean())
    by_prompt = values.mean(axis=0)
    assert by_prompt.min() - 1e-9 <= found.low <= found.high <= by_prompt.max() + 1e-9


@given(tables())
def test_seeds_of_a_prompt_go_together(values):
    """So a table of several seeds is judged as that of its means over seeds."""
    several = interval(cells(values).ratio, values.shape[1])
    means = interval(cells(values.mean(axis=0, keepdims=True)).ratio, values.shape[1])
    assert (several.low, several.high) == pytest.approx((means.low, means.high))


def test_it_is_scipys_percentile_bootstrap():
    values = normal(1, 40)
    ours = interval(cells(values).ratio, 40)
    theirs = bootstrap(
        (values[0],), np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_it_covers_the_truth_about_as_often_as_it_says():
    means = [interval(cells(normal(1, 50, seed=seed)).ratio, 50) for seed in range(300)]
    covered = sum(each.low <= 0 <= each.high for each in means) / 300
    assert 0.90 <= covered <= 0.98


def test_one_prompt_has_a_value_and_no_interval():
    assert interval(cells([[3.0], [5.0]]).ratio, 1) == Interval(value=4.0)


@pytest.mark.parametrize(
    ("defined", "known"),
    # Of 24 prompts that many have a value; a resample without any of them is undefined:
    # (1 − 2/24)^24 is 12 %, (1 − 3/24)^24 is 4 %.
    [(0, False), (2, False), (3, True)],
)
def test_a_statistic_that_is_often_undefined_has_no_interval(defined, known):
    values = np.full((1, 24), np.nan)
    values[0, :defined] = range(1, defined + 1)
    found = interval(cells(values).ratio, 24)
    assert (found.value is not None) == (defined > 0)
    assert (found.low is not None) == (found.high is not None) == known


def test_a_ratio_is_of_sums_and_not_a_mean_of_ratios():
    """Perplexity: long samples weigh more."""
    nats = Cells(above=np.array([[10.0, 1.0]]), below=np.array([[10.0, 2.0]]))
    assert interval(nats.ratio, 2).value == pytest.approx(11 / 12)


# -- pairs -----------------------------------------------------------------------------------


def test_differences_are_paired():
    """Two arms far apart from prompt to prompt, and always one apart from each other."""
    values = 100 * normal(2, 30)
    found = interval(difference(cells(values + 1), cells(values)), 30)
    assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1))


@given(tables())
def test_an_arm_does_not_differ_from_itself(values):
    found = interval(difference(cells(values), cells(values)), values.shape[1])
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_a_difference_is_over_what_both_have():
    one = cells([[1.0, 2.0, math.nan], [9.0, math.nan, math.nan]])
    other = cells([[0.0, 0.0, 5.0], [math.nan, 7.0, 5.0]])
    assert interval(difference(one, other), 3).value == pytest.approx((1 + 2) / 2)


@pytest.mark.parametrize(("above", "below"), [(1.0, 0.0), (1.0, -1.0), (math.nan, 1.0)])
def test_cells_that_say_nothing_sensible_are_refused(above, below):
    with pytest.raises(UsageError, match="a cell"):
        Cells(above=np.array([[above]]), below=np.array([[below]]))
