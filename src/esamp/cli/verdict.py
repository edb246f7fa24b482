"""What a self-test of steering must show, on whatever backend."""

from collections.abc import Sequence
from typing import Any

Samples = Sequence[Sequence[int]]


def judge(plain: Samples, off: Samples, on: Samples, errors: Sequence[float]) -> dict[str, Any]:
    """Judge samples of one seed, and the distiller's error at each step.

    Args:
        plain: Samples without ESamp.
        off: Samples with β 0.
        on: Samples with β 1.
        errors: Mean ‖residual‖²/‖deep‖² of each step of `on`.
    """
    first, last = sum(errors[:4]) / 4, sum(errors[-16:]) / 16
    error = None
    if plain != off:
        error = "β 0 does not give plain sampling's tokens"
    elif plain == on:
        error = "β 1 changes no token"
    elif not last < first:
        error = f"the distiller does not learn: error {first:.2f} at first, {last:.2f} at last"
    return {"error": error, "distiller_error_first": first, "distiller_error_last": last}
