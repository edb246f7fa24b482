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
    """Find a temperature by bisection of its logarithm: entropy rises with temperature.

    The nearest of at most `MOST` tries is returned; it says how near it is.

    Args:
        entropy_at: Samples plainly at a temperature and returns the realised entropy. Equal
            temperatures give equal results.
        target: The entropy wanted, in nats a token.
    """
    low, high = COLDEST, HOTTEST
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
        low, high = (temperature, high) if found.entropy < target else (low, temperature)
        temperature = math.sqrt(low * high)
    assert best is not None, "there is a first try"
    return best


def _miss(found: Calibrated) -> float:
    return abs(found.entropy - found.target)
