"""What a worker counts: on the device, so that no step waits for a number.

The four numbers that `/metrics` shows are read by a thread of their own, see `metrics.py`.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

RECENT = 4096
"""Steps whose distiller error is kept."""


class Totals:
    """Counters of one worker."""

    def __init__(self, device: torch.device) -> None:
        # Steered rows, rows that could not be judged, and the sum of squared novelty.
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)
        self._errors = torch.full((RECENT,), torch.nan, device=device)
        self._steps = 0
        self._fallback = 0
        self._uncounted = 0
        self.groups_open = 0
        self._faults: dict[str, int] = {}

    def count(self, novelty: Float[Tensor, " steered"]) -> None:
        """Count the rows of a step by what the explorer says of them; NaN: left alone."""
        judged = ~novelty.isnan()
        rows = judged.sum()
        total = novelty.double().square().nansum()
        self._sums += torch.stack([rows, (~judged).sum(), total])
        self._errors[self._steps % RECENT] = total / rows
        self._steps += 1

    def fall_back(self, rows: int, counted: bool) -> None:
        """Count rows that are drawn plainly: no group was free, or something failed.

        Args:
            rows: How many.
            counted: Whether they were counted as steered before it failed.
        """
        self._fallback += rows
        self._uncounted += rows if counted else 0

    def note_fault(self, kind: str) -> bool:
        """Count a fault; return whether it is the first of its kind."""
        self._faults[kind] = self._faults.get(kind, 0) + 1
        return self._faults[kind] == 1

    def read(self) -> dict[str, Any]:
        """Return the totals so far. Waits for the device: not for use within a step."""
        judged, nonfinite, squares = self._sums.tolist()
        return {
            # A row may be neither finite nor fused, and is taken off twice then.
            "rows_steered": max(int(judged) - self._uncounted, 0),
            "rows_fallback": int(nonfinite) + self._fallback,
            "rows_nonfinite": int(nonfinite),
            "groups_open": self.groups_open,
            "distiller_error": squares / judged if judged else None,
            "steps": self._steps,
            "faults": dict(self._faults),
        }

    def recent_errors(self, since: int) -> list[float | None]:
        """Return each step's mean ‖residual‖²/‖deep‖² from a step on; None: not kept, or none."""
        errors = self._errors.tolist()
        return [
            None
            if step < self._steps - RECENT or errors[step % RECENT] != errors[step % RECENT]
            else errors[step % RECENT]
            for step in range(since, self._steps)
        ]
