"""Ranges that several baselines share."""

import math
from typing import Any, get_args

from esamp.errors import UsageError


def check_weight(name: str, value: float) -> None:
    """Raise UsageError unless a setting is a finite number, 0 or above."""
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(f"{name} is {value}: give a finite number, 0 (off) or above")


def check_count(name: str, value: int, least: int) -> None:
    """Raise UsageError unless a setting is a whole number of `least` or above."""
    if value < least:
        raise UsageError(f"{name} is {value}: give {least} or more")


def check_share(name: str, value: float) -> None:
    """Raise UsageError unless a setting is a number from 0 to 1."""
    if not 0 <= value <= 1:
        raise UsageError(f"{name} is {value}: give a number from 0 to 1")


def check_choice(name: str, value: str, choices: Any) -> None:
    """Raise UsageError unless a setting is one of a `Literal`'s words."""
    if value not in get_args(choices):
        raise UsageError(f"{name} is {value!r}: give one of {', '.join(get_args(choices))}")
