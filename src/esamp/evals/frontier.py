"""The frontier: an arm against the vanilla temperature curve of the same run.

Open-ended tasks: a higher temperature buys diversity with perplexity, so an arm is compared with
what vanilla sampling gives at the same log-perplexity,

    lift = Vendi of the arm / Vendi of vanilla, interpolated linearly in log-perplexity

between the neighbouring vanilla temperatures; undefined outside their range. 1 is no gain. Source:
ours; the paper has no temperature-matched control. Verifiable tasks: pass@k against the vanilla
temperature that is best for that k.

Everything is paired: cells (seed × prompt) that an arm and all of vanilla have, and in each
resample the curve is made anew from the same prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from esamp.errors import UsageError
from esamp.evals.statistics import Cells, Interval, Statistic, Weights, difference, interval

LENGTH_TOLERANCE = 0.05
REPEATS_TOLERANCE = 0.02


@dataclass(frozen=True, kw_only=True)
class Point:
    """What places an arm, and what its place does not show, over the same seeds and prompts."""

    vendi: Cells
    log_perplexity: Cells
    """Nats over tokens of the scorer."""
    length: Cells
    """Tokens over samples."""
    distinct: Cells
    """Share of a sample's trigrams that are distinct; texts of two words have none."""

    @property
    def defined(self) -> Bool[np.ndarray, "seeds prompts"]:
        """Which cells have a place: the first three."""
        three = [self.vendi.defined, self.log_perplexity.defined, self.length.defined]
        defined: np.ndarray = np.logical_and.reduce(three)
        return defined

    def only(self, kept: Bool[np.ndarray, "seeds prompts"]) -> "Point":
        """Return the same with only those cells."""
        return Point(
            vendi=self.vendi.only(kept),
            log_perplexity=self.log_perplexity.only(kept),
            length=self.length.only(kept),
            distinct=self.distinct.only(kept),
        )


class Lift(NamedTuple):
    """An arm over vanilla at equal log-perplexity."""

    lift: Interval
    length_differs: bool | None
    """Whether its mean length is more than 5 % off vanilla's, interpolated at the same point; None
    outside vanilla's range. Vendi and perplexity both depend on length."""
    repeats: bool | None
    """Whether its distinct trigrams are more than 0.02 below vanilla's, likewise. A loop is likely
    under every scorer, and loops of different words differ: so repeating oneself is a lift."""


def lift(arm: Point, curve: Sequence[Point]) -> Lift:
    """Return an arm's lift over the curve, with its interval.

    Args:
        arm: The arm.
        curve: Vanilla at different temperatures, in any order.

    Raises:
        UsageError: The curve has fewer than two points, so it has no range.
    """
    if len(curve) < 2:
        raise UsageError(f"the vanilla curve has {len(curve)} temperatures: give two or more")
    common = _common(arm, curve)
    arm, curve = arm.only(common), [each.only(common) for each in curve]

    prompts = common.shape[1]
    whole = np.ones((1, prompts))
    length, distinct = (
        float(_at_equal_perplexity(arm, curve, values, whole)[0])
        for values in ([each.length for each in curve], [each.distinct for each in curve])
    )
    longer = float(arm.length.ratio(whole)[0]) / length - 1
    fewer = distinct - float(arm.distinct.ratio(whole)[0])
    return Lift(
        lift=interval(_over(arm, curve), prompts),
        length_differs=abs(longer) > LENGTH_TOLERANCE if np.isfinite(longer) else None,
        repeats=fewer > REPEATS_TOLERANCE if np.isfinite(fewer) else None,
    )


def lift_difference(one: Point, other: Point, curve: Sequence[Point]) -> Interval:
    """Return the lift of one arm less that of another, on the same resamples.

    Both lifts have the curve's luck in common, so a difference may be clear where the two intervals
    overlap. Undefined where one of the arms is outside vanilla's range.
    """
    common = _common(one, [other, *curve])
    curve = [each.only(common) for each in curve]
    here, there = (_over(arm.only(common), curve) for arm in (one, other))
    return interval(lambda weights: here(weights) - there(weights), common.shape[1])


def _over(arm: Point, curve: Sequence[Point]) -> Statistic:
    """Return the lift as a statistic; all have the same cells."""

    def statistic(weights: Weights) -> Float[np.ndarray, " resamples"]:
        vanilla = _at_equal_perplexity(arm, curve, [each.vendi for each in curve], weights)
        ratios: np.ndarray = arm.vendi.ratio(weights) / vanilla
        return ratios

    return statistic


def _at_equal_perplexity(
    arm: Point, curve: Sequence[Point], values: Sequence[Cells], weights: Weights
) -> Float[np.ndarray, " resamples"]:
    """Return vanilla's value at the arm's log-perplexity, for each resample."""
    return interpolate(
        arm.log_perplexity.ratio(weights),
        np.stack([each.log_perplexity.ratio(weights) for each in curve], axis=1),
        np.stack([each.ratio(weights) for each in values], axis=1),
    )


def interpolate(
    here: Float[np.ndarray, " rows"],
    xs: Float[np.ndarray, "rows points"],
    ys: Float[np.ndarray, "rows points"],
) -> Float[np.ndarray, " rows"]:
    """Return for each row the value at `here` on the line through its points.

    Points are sorted by x. Exactly a point's value at that point; NaN outside their range and where
    anything is NaN.
    """
    order = np.argsort(xs, axis=1, kind="stable")
    xs, ys = np.take_along_axis(xs, order, axis=1), np.take_along_axis(ys, order, axis=1)
    left = np.clip((xs <= here[:, None]).sum(axis=1) - 1, 0, xs.shape[1] - 2)[:, None]
    x = [np.take_along_axis(xs, left + side, axis=1)[:, 0] for side in (0, 1)]
    y = [np.take_along_axis(ys, left + side, axis=1)[:, 0] for side in (0, 1)]
    # Two points of equal x at the end of the range: the later one.
    share = np.divide(here - x[0], x[1] - x[0], out=np.ones_like(here), where=x[1] > x[0])
    inside = (xs[:, 0] <= here) & (here <= xs[:, -1])
    return np.where(inside, y[0] * (1 - share) + y[1] * share, np.nan)


def _common(
    arm: Point | Cells, others: Sequence[Point] | Sequence[Cells]
) -> Bool[np.ndarray, "seeds prompts"]:
    common: np.ndarray = np.logical_and.reduce([arm.defined, *(each.defined for each in others)])
    return common


class Gain(NamedTuple):
    """An arm's measure less that of the best vanilla temperature."""

    best: int
    """Which of the temperatures given."""
    difference: Interval


def against_best(arm: Cells, vanilla: Sequence[Cells]) -> Gain | None:
    """Return how far an arm is above the best vanilla temperature; None if there is nothing to say.

    The best is chosen once, by the mean over all common cells, and stays the same in each resample.
    Being chosen on the data that it is judged on favours vanilla: a gain can be believed, while a
    small loss may be the luck of the best of several temperatures. To choose again within each
    resample would make that worse. Simulated with seven temperatures and an arm no different from
    them, 24 to 200 prompts: a loss is claimed in 13 % of the runs with one choice, in a third
    with a choice in each resample, a gain never.
    """
    if not vanilla:
        return None
    common = _common(arm, vanilla)
    if not common.any():
        return None
    whole = np.ones((1, common.shape[1]))
    means = [each.only(common).ratio(whole)[0] for each in vanilla]
    best = int(np.argmax(means))
    compared = difference(arm.only(common), vanilla[best].only(common))
    return Gain(best=best, difference=interval(compared, common.shape[1]))
