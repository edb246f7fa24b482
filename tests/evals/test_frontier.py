from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esamp.errors import UsageError
from esamp.evals.frontier import Point, against_best, interpolate, lift, lift_difference
from esamp.evals.statistics import Cells

SEEDS = st.integers(0, 2**32)


def mean_cells(values):
    values = np.asarray(values, dtype=float)
    return Cells(above=values, below=np.ones_like(values))


def point(vendi, log_perplexity, length=100.0, prompts=12, spread=0.0, seed=0, distinct=0.98):
    """An arm with those means; each prompt differs, in the same way for every arm."""
    noise = spread * np.random.default_rng(seed).normal(size=(1, prompts))
    tokens = np.full((1, prompts), 10.0 * length)
    return Point(
        vendi=mean_cells(vendi + noise),
        log_perplexity=Cells(above=tokens * (log_perplexity + noise / 10), below=tokens),
        length=Cells(above=tokens, below=np.full((1, prompts), 10.0)),
        distinct=mean_cells(np.full((1, prompts), distinct)),
    )


def curve(**settings):
    """Vanilla at three temperatures: Vendi 4, 6, 7 at log-perplexity 1, 2, 3."""
    return [point(v, x, **settings) for v, x in ((6, 2), (4, 1), (7, 3))]


def random_arm(seed, prompts=9, seeds=2):
    draws = np.random.default_rng(seed)
    shape = (seeds, prompts)
    tokens = draws.integers(20, 90, shape).astype(float)
    return Point(
        vendi=mean_cells(draws.uniform(1, 8, shape)),
        log_perplexity=Cells(above=tokens * draws.uniform(1, 3, shape), below=tokens),
        length=Cells(above=tokens, below=np.ones(shape)),
        distinct=mean_cells(draws.uniform(0.8, 1, shape)),
    )


# -- lift ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vendi", "log_perplexity", "expected"),
    [(5.0, 1.5, 1.0), (10.0, 1.5, 2.0), (6.5, 2.5, 1.0), (4.4, 1.1, 4.4 / 4.2), (14, 3, 2)],
)
def test_lift_by_hand(vendi, log_perplexity, expected):
    assert lift(point(vendi, log_perplexity), curve()).lift.value == pytest.approx(expected)


@pytest.mark.parametrize("log_perplexity", [0.9, 3.1])
def test_outside_vanillas_range_there_is_no_lift(log_perplexity):
    found = lift(point(9.0, log_perplexity), curve())
    assert found.lift.value is found.lift.low is found.lift.high is None
    assert found.length_differs is found.repeats is None


@given(SEEDS, st.integers(2, 5), st.data())
def test_the_lift_of_a_vanilla_arm_is_one_whatever_the_curve(seed, count, data):
    arms = [random_arm(seed + number) for number in range(count)]
    which = data.draw(st.integers(0, count - 1))
    found = lift(arms[which], arms).lift
    assert (found.value, found.low, found.high) == (1, 1, 1)


@given(SEEDS, st.integers(2, 4))
def test_the_difference_of_lifts_is_that_of_their_values(seed, count):
    vanilla = [random_arm(seed + number) for number in range(count)]
    one, other = random_arm(seed + 10), random_arm(seed + 11)
    found = lift_difference(one, other, vanilla)
    lifts = [lift(arm, vanilla).lift.value for arm in (one, other)]
    if None in lifts:
        assert found.value is None
    else:
        assert found.value == pytest.approx(lifts[0] - lifts[1])
    assert lift_difference(one, one, vanilla).value in (0, None)
    back = lift_difference(other, one, vanilla)
    if found.low is not None:
        assert (back.low, back.high) == pytest.approx((-found.high, -found.low))


def test_what_two_lifts_have_in_common_is_not_in_their_difference():
    """Prompts that differ much, in the same way for both arms."""
    settings = {"spread": 0.8, "seed": 3}
    one, other = point(6.2, 1.5, **settings), point(6.0, 1.5, **settings)
    vanilla = curve(**settings)
    found = lift_difference(one, other, vanilla)
    assert found.low > 0
    first, second = (lift(arm, vanilla).lift for arm in (one, other))
    assert first.low < second.high, "the two intervals overlap"


@given(SEEDS, st.permutations(range(4)))
def test_the_order_of_the_curve_does_not_matter(seed, order):
    arms, arm = [random_arm(seed + 1 + number) for number in range(4)], random_arm(seed)
    assert lift(arm, [arms[each] for each in order]) == lift(arm, arms)


@given(SEEDS)
def test_lift_is_what_numpy_interpolates_in_every_resample(seed):
    arm, arms = random_arm(seed), [random_arm(seed + 1 + number) for number in range(4)]
    weights = np.random.default_rng(seed).integers(0, 3, (20, 9)).astype(float)
    weights[:, 0] += 1
    xs = np.stack([each.log_perplexity.ratio(weights) for each in arms], axis=1)
    ys = np.stack([each.vendi.ratio(weights) for each in arms], axis=1)
    here = arm.log_perplexity.ratio(weights)
    expected = []
    for place, row, values in zip(here, xs, ys, strict=True):
        order = row.argsort()
        expected.append(np.interp(place, row[order], values[order], left=np.nan, right=np.nan))
    assert interpolate(here, xs, ys) == pytest.approx(np.array(expected), nan_ok=True)


def test_arm_and_curve_are_resampled_together():
    """Prompts differ much and an arm has 1.5 times vanilla's score on each: that is no doubt."""
    scores = 4 + np.random.default_rng(0).normal(size=(1, 12))
    even = mean_cells(np.full((1, 12), 1.5))
    same = {"length": mean_cells(np.full((1, 12), 9.0)), "distinct": mean_cells(np.ones((1, 12)))}
    arms = [
        Point(vendi=mean_cells(scores), log_perplexity=mean_cells(np.full((1, 12), x)), **same)
        for x in (1.0, 2.0)
    ]
    found = lift(Point(vendi=mean_cells(1.5 * scores), log_perplexity=even, **same), arms)
    assert (found.lift.low, found.lift.high) == pytest.approx((1.5, 1.5))


def test_a_lift_that_is_mostly_outside_in_the_resamples_has_no_interval():
    """Just inside the range, by an arm whose log-perplexity varies alone."""
    steady, shaky = curve(), point(9.0, 3.0 - 1e-3, spread=1.0, seed=3)
    shift = shaky.log_perplexity.ratio(np.ones((1, 12)))[0] - (3.0 - 1e-3)
    shaky = Point(
        vendi=shaky.vendi,
        length=shaky.length,
        distinct=shaky.distinct,
        log_perplexity=Cells(
            above=shaky.log_perplexity.above - shift * shaky.log_perplexity.below,
            below=shaky.log_perplexity.below,
        ),
    )
    found = lift(shaky, steady).lift
    assert found.value is not None
    assert found.low is found.high is None


@pytest.mark.parametrize(
    ("length", "differs"), [(100, False), (104, False), (106, True), (94, True)]
)
def test_a_length_of_its_own_is_flagged(length, differs):
    assert lift(point(5.0, 1.5, length=float(length)), curve()).length_differs is differs


@pytest.mark.parametrize(
    ("distinct", "repeats"), [(0.9, False), (0.99, False), (0.885, False), (0.875, True)]
)
def test_a_sample_that_repeats_itself_is_flagged(distinct, repeats):
    arms = [point(4.0, 1.0, distinct=0.85), point(6.0, 2.0, distinct=0.95)]
    assert lift(point(5.0, 1.5, distinct=distinct), arms).repeats is repeats


def test_texts_without_trigrams_are_placed_all_the_same():
    nothing = Cells(above=np.zeros((1, 12)), below=np.zeros((1, 12)))
    found = lift(replace(point(5.0, 1.5), distinct=nothing), curve())
    assert found.lift.value == pytest.approx(1.0)
    assert found.repeats is None
    assert found.length_differs is False


def test_length_is_compared_at_the_same_perplexity():
    """Vanilla's samples get longer from 100 to 200 tokens; between them 150 is the same."""
    arms = [point(4.0, 1.0, length=100.0), point(6.0, 2.0, length=200.0)]
    assert lift(point(5.0, 1.5, length=150.0), arms).length_differs is False
    assert lift(point(5.0, 1.5, length=100.0), arms).length_differs is True


def test_cells_that_an_arm_lacks_are_left_out_of_the_curve_too():
    """Vanilla was three times as diverse on the prompts that the arm did not reach."""
    values = np.array([[4.0, 12.0]])
    same = {"length": mean_cells([[9.0, 9.0]]), "distinct": mean_cells([[1.0, 1.0]])}
    arms = [
        Point(vendi=mean_cells(values + x), log_perplexity=mean_cells([[x, x]]), **same)
        for x in (1.0, 2.0)
    ]
    first = np.array([[True, False]])
    arm = Point(
        vendi=mean_cells([[5.5, 50.0]]),
        log_perplexity=mean_cells([[1.5, 1.5]]),
        **same,
    ).only(first)
    assert lift(arm, arms).lift.value == pytest.approx(1)


def test_one_temperature_is_no_curve():
    with pytest.raises(UsageError, match="has 1 temperatures: give two or more"):
        lift(point(5, 2), curve()[:1])


# -- against the best ------------------------------------------------------------------------


def test_the_best_temperature_is_the_one_with_the_highest_mean():
    arms = [mean_cells([[0.1, 0.3]]), mean_cells([[0.5, 0.4]]), mean_cells([[0.2, 0.2]])]
    gain = against_best(mean_cells([[0.8, 0.5]]), arms)
    assert gain.best == 1
    assert gain.difference.value == pytest.approx(0.65 - 0.45)
    assert (gain.difference.low, gain.difference.high) == pytest.approx((0.1, 0.3))


def test_against_nothing_there_is_no_gain():
    undefined = Cells(above=np.zeros((1, 2)), below=np.zeros((1, 2)))
    assert against_best(mean_cells([[0.1, 0.3]]), []) is None
    assert against_best(undefined, [mean_cells([[0.1, 0.3]])]) is None


def test_an_arm_like_vanilla_is_hardly_ever_called_better_than_the_best():
    """The best of several is chosen on the same data, which favours vanilla."""
    better = worse = 0
    for seed in range(100):
        draws = np.random.default_rng(seed)
        chance = draws.beta(0.5, 1.5, size=(1, 40))
        arms = [mean_cells(draws.binomial(3, chance) / 3) for _ in range(8)]
        found = against_best(arms[0], arms[1:]).difference
        better += found.low > 0
        worse += found.high < 0
    assert better == 0
    assert 0 < worse < 25
