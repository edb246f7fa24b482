"""Random steps, as a model would show them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from esamp.layout import Layout
from esamp.method import Step

HIDDEN = 8


def random_states(rows: int, hidden: int = HIDDEN, seed: int = 0) -> Tensor:
    return torch.randn(rows, hidden, generator=torch.Generator().manual_seed(seed))


def random_step(
    groups: Sequence[int],
    *,
    capacity: int | None = None,
    hidden: int = HIDDEN,
    seed: int = 0,
    **fields: Any,
) -> Step:
    """A step well after the first token, one row per entry of `groups`; `fields` override."""
    rows = len(groups)
    return Step(
        **{
            "shallow": random_states(rows, hidden, 2 * seed),
            "deep": random_states(rows, hidden, 2 * seed + 1),
            "samples": torch.arange(rows),
            "positions": torch.full((rows,), 5),
            "unfinished": torch.ones(rows, dtype=torch.bool),
            "layout": Layout.of(
                groups, max(groups, default=-1) + 1 if capacity is None else capacity
            ),
        }
        | fields
    )


def select(step: Step, rows: Sequence[int], groups: Sequence[int], capacity: int) -> Step:
    """Some rows of a step, in that order, laid out by `groups`."""
    at = torch.tensor(rows, dtype=torch.long)
    return Step(
        shallow=step.shallow[at],
        deep=step.deep[at],
        samples=step.samples[at],
        positions=step.positions[at],
        unfinished=step.unfinished[at],
        layout=Layout.of(groups, capacity),
        beta=None if step.beta is None else step.beta[at],
    )


def no_tokens(step: Step) -> Tensor:
    """Drawn tokens for methods that do not look at them."""
    return torch.zeros(len(step.deep), dtype=torch.long)
