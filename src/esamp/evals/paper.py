"""Numbers of the paper beside a run: they are shown with what it measures, and take no part in it.

A configuration gives them as the paper prints them, pass@k and maj@k in percent:

    paper:
      vanilla: {vendi: 1.62, perplexity: 4.08}
      esamp-paper: {pass@16: 70.2, tokens_per_second: 4364.0}

vendi, similarity and perplexity are those of the run's first embedder or scorer, unless its name
follows: `vendi:all-MiniLM-L6-v2`. paper.json has whole names, and shares as summary.json has.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from esamp.errors import UsageError
from esamp.evals.arms import parse_arm
from esamp.evals.table import ks_of

FILE = "paper.json"
"""Its name in a run folder; not part of what makes a run the same run."""

SPEED = "tokens_per_second"
SHARE = re.compile(r"(pass|maj)@[1-9]\d*")
NAME = re.compile(rf"{SHARE.pattern}|(vendi|similarity|perplexity)(:.+)?|{SPEED}")

Numbers = Mapping[str, Mapping[str, float]]
"""By arm, then by measure, in the units of summary.json."""


def measures_of(
    samples: int, embedders: Sequence[str], scorers: Sequence[str], verifiable: bool
) -> list[str]:
    """Return the whole names of what a run measures and the paper may have numbers of."""
    ks = ks_of(samples) if verifiable else []
    return [
        *(f"pass@{k}" for k in ks),
        *(f"maj@{k}" for k in ks if k > 1),
        *(f"{name}:{each}" for name in ("vendi", "similarity") for each in embedders),
        *(f"perplexity:{each}" for each in scorers),
        SPEED,
    ]


def read_paper(
    given: Mapping[str, Any], arms: Sequence[str], measures: Sequence[str], *, partly: bool = False
) -> dict[str, dict[str, float]]:
    """Return what a configuration says of the paper, in the names and units of the run.

    Args:
        given: From arm to measure to number, as the paper prints it.
        arms: Names of the run's arms.
        measures: What `measures_of` says of the run.
        partly: Whether to leave out what the run does not have, instead of raising.

    Raises:
        UsageError: An arm or a measure does not exist or is not in the run, or a number is none.
    """
    found: dict[str, dict[str, float]] = {}
    for text, numbers in given.items():
        arm = parse_arm(str(text)).name
        if not isinstance(numbers, Mapping):
            raise UsageError(
                f"paper, {text}: it is {numbers!r}: give measures and their numbers, such as "
                "{pass@16: 31.7}"
            )
        if arm not in arms and not partly:
            raise UsageError(
                f"paper, {text}: this run has no such arm: leave it out, or give one of "
                f"{', '.join(arms)}"
            )
        for name, value in numbers.items():
            place = f"paper, {text}, {name}"
            number, measure = _number(place, str(name), value), _whole(str(name), measures)
            if measure is None and not partly:
                raise UsageError(
                    f"{place}: this run does not measure it: leave it out, or give one of "
                    f"{', '.join(measures)}"
                )
            if measure is not None and arm in arms:
                found.setdefault(arm, {})[measure] = number
    return found


def _number(place: str, name: str, value: Any) -> float:
    """Return a number in the units of summary.json."""
    if NAME.fullmatch(name) is None:
        raise UsageError(
            f"{place}: there is no such measure: give pass@K, maj@K, vendi, similarity, perplexity "
            f"or {SPEED}"
        )
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"{place}: it is {value!r}: give a number")
    if SHARE.fullmatch(name) is None:
        return float(value)
    if not 0 <= value <= 100:
        raise UsageError(f"{place}: it is {value}: give percent, from 0 to 100")
    return round(value / 100, 6)


def _whole(name: str, measures: Sequence[str]) -> str | None:
    """Return a measure's whole name, of the first embedder or scorer where none is named."""
    if name in measures:
        return name
    return next((each for each in measures if each.startswith(f"{name}:")), None)
