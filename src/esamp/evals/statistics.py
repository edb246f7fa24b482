"""Intervals: a paired bootstrap over prompts.

Prompts are resampled with replacement, and a prompt brings its samples of every arm and seed along:
so a difference between two arms is judged prompt by prompt, and seeds are not taken for further
prompts. Every statistic here is a function of sums over prompts, so a resample is a vector of
weights, and all resamples are computed at once. All statistics of a run see the same resamples.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float

from esamp.errors import UsageError

RESAMPLES = 2000
SEED = 20_260
COVERAGE = 0.95
UNDEFINED_LIMIT = 0.1
"""A statistic that is undefined in a larger share of the resamples has no interval."""

Weights = Float[np.ndarray, "resamples prompts"]
"""How often each resample has each prompt."""

Statistic = Callable[[Weights], Float[np.ndarray, " resamples"]]
"""A number for each resample; NaN where it is undefined."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A number and its 95 % interval. None: undefined, or no interval can be given."""

    value: float | None = None
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict[str, float | None]:
        """Return JSON data."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Cells:
    """One measure of one arm, as a ratio of sums over seeds and prompts.

    A mean over groups has the groups' values above and ones below; perplexity has nats and tokens.
    """

    above: Float[np.ndarray, "seeds prompts"]
    below: Float[np.ndarray, "seeds prompts"]
    """0 where the measure is undefined; `above` is 0 there too."""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.above).all() and np.isfinite(self.below).all()):
            raise UsageError("a cell is not finite: leave undefined ones out with 0 below")
        if (self.below < 0).any() or self.above[self.below == 0].any():
            raise UsageError("a cell has less than 0 below, or something above 0: give neither")

    @property
    def defined(self) -> Bool[np.ndarray, "seeds prompts"]:
        """Which cells have a value."""
        defined: np.ndarray = self.below > 0
        return defined

    def only(self, kept: Bool[np.ndarray, "seeds prompts"]) -> "Cells":
        """Return the same with only those cells."""
        return Cells(above=np.where(kept, self.above, 0), below=np.where(kept, self.below, 0))

    def ratio(self, weights: Weights) -> Float[np.ndarray, " resamples"]:
        """Return the sum above over the sum below for each resample; NaN where that is 0."""
        below = weighted(weights, self.below.sum(axis=0))
        above = weighted(weights, self.above.sum(axis=0))
        ratios: np.ndarray = np.divide(
            above, below, out=np.full_like(below, np.nan), where=below > 0
        )
        return ratios


def weighted(
    weights: Weights, values: Float[np.ndarray, " prompts"]
) -> Float[np.ndarray, " resamples"]:
    """Return the sum of values for each resample.

    Not as a matrix product: what that gives, to the last bit, depends on the number of threads.
    """
    sums: np.ndarray = np.einsum("rp,p->r", weights, values, optimize=False)
    return sums


@lru_cache(maxsize=4)
def resample(prompts: int, resamples: int = RESAMPLES, seed: int = SEED) -> Weights:
    """Return the weights of the resamples, from a private generator; the same on every call.

    Raises:
        UsageError: There is no prompt, or no resample is asked for.
    """
    if prompts < 1 or resamples < 1:
        raise UsageError(f"{prompts} prompts and {resamples} resamples: give 1 or more of each")
    chosen = np.random.Generator(np.random.PCG64(seed)).integers(prompts, size=(resamples, prompts))
    # Each row counts in bins of its own.
    bins = chosen + prompts * np.arange(resamples)[:, None]
    counts = np.bincount(bins.ravel(), minlength=resamples * prompts)
    weights = counts.reshape(resamples, prompts).astype(np.float64)
    weights.flags.writeable = False  # shared by all callers
    return weights


def interval(statistic: Statistic, prompts: int) -> Interval:
    """Return a statistic's value on all prompts, and its percentile interval.

    No interval is given for one prompt, since nothing can be said about others, nor where the
    statistic is undefined in more than 10 % of the resamples. Percentile intervals are somewhat too
    narrow where prompts are few.
    """
    value = _number(statistic(np.ones((1, prompts)))[0])
    if value is None or prompts < 2:
        return Interval(value=value)
    draws = statistic(resample(prompts))
    defined = draws[np.isfinite(draws)]
    if len(defined) < (1 - UNDEFINED_LIMIT) * len(draws):
        return Interval(value=value)
    tail = 50 * (1 - COVERAGE)
    low, high = np.percentile(defined, [tail, 100 - tail])
    return Interval(value=value, low=float(low), high=float(high))


def difference(one: Cells, other: Cells) -> Statistic:
    """Return the statistic one − other, over the cells where both are defined."""
    both = one.defined & other.defined
    here, there = one.only(both), other.only(both)
    return lambda weights: here.ratio(weights) - there.ratio(weights)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
