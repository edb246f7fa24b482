"""Seconds that esamp spends within an engine's steps. Off unless asked for: see `timing`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Clock:
    """An account of own seconds and of step seconds; does nothing where it is off."""

    def __init__(self, on: bool, device: torch.device) -> None:
        self._on = on
        self._waits = device.type == "cuda"
        self._inside = False
        self.own_seconds = 0.0
        self.step_seconds = 0.0

    @contextmanager
    def own(self) -> Iterator[None]:
        """Count what runs within as esamp's; nested marks count once."""
        if not self._on or self._inside:
            yield
            return
        self._inside = True
        start = self._now()
        try:
            yield
        finally:
            self.own_seconds += self._now() - start
            self._inside = False

    @contextmanager
    def step(self) -> Iterator[None]:
        """Count what runs within as part of the engine's steps."""
        if not self._on:
            yield
            return
        start = self._now()
        try:
            yield
        finally:
            self.step_seconds += self._now() - start

    def read(self) -> dict[str, Any]:
        """Return both accounts; None where the clock is off."""
        if not self._on:
            return {"own_seconds": None, "step_seconds": None}
        return {"own_seconds": self.own_seconds, "step_seconds": self.step_seconds}

    def _now(self) -> float:
        if self._waits:
            torch.cuda.synchronize()
        return time.perf_counter()
