"""The vanilla temperature at which plain sampling has the entropy of another arm. Source: ours.

Whatever ESamp does beside exploring, it sharpens; an arm at equal entropy shows what is left.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

COLDEST, HOTTEST = 0.05, 3.0
TOLERANCE = 0.01
"""Relative difference of entropies that is near enough: sampling noise is about as large."""
MOST = 10
"""Times that plain sampling is tried."""


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """What was found."""

    temperature: float
    entropy: float
    """Realised at that temperature, in nats a token."""
    target: float
    """Realised by the arm that it is matched to."""


def calibrate(entropy_at: Callable[[float], float], target: float) -> Calibrated:
    """Find a temperature by bracketing and interpolation: entropy rises with temperature.

    The nearest of at most `MOST` tries is returned; it says how near it is.

    Args:
        entropy_at: Samples plainly at a temperature and returns the realised entropy. Equal
            temperatures give equal results.
        target: The entropy wanted, in nats a token.
    """
    colder, hotter = None, None
    temperature, best = 1.0, None
    for _ in range(MOST):
        found = Calibrated(
            temperature=round(temperature, 4),
            entropy=entropy_at(round(temperature, 4)),
            target=target,
        )
        if best is None or _miss(found) < _miss(best):
            best = found
        if _miss(found) <= TOLERANCE * abs(target):
            break
        colder, hotter = (found, hotter) if found.entropy < target else (colder, found)
        temperature = _next(colder, hotter)
        if round(temperature, 4) == found.temperature:
            break  # the end of the range
    assert best is not None, "there is a first try"
    return best


def _next(colder: Calibrated | None, hotter: Calibrated | None) -> float:
    """Return a temperature between two tries, or half or twice the one that there is.

    Between them entropy goes about as a power of the temperature.
    """
    if colder is None:
        assert hotter is not None, "there is a try"
        return max(hotter.temperature / 2, COLDEST)
    if hotter is None:
        return min(colder.temperature * 2, HOTTEST)
    share = 0.5
    if colder.entropy > 0:
        whole = math.log(hotter.entropy / colder.entropy)
        # Not too near to either end, which noise may have put on the wrong side.
        share = min(max(math.log(colder.target / colder.entropy) / whole, 0.1), 0.9)
    between: float = colder.temperature ** (1 - share) * hotter.temperature**share
    return between


def _miss(found: Calibrated) -> float:
    return abs(found.entropy - found.target)
