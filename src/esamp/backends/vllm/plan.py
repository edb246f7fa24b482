"""Which rows of a step are steered, and all that is uploaded for them.

A plan is good for as long as neither rows nor groups change: that is most steps of a decode.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from esamp.backends.vllm.roster import Member
from esamp.layout import Layout, upload

Steered = Sequence[tuple[int, Member]]
"""Steered rows that have a group, by their number among all that reach the head."""


@dataclass(frozen=True, kw_only=True)
class Survivors:
    """Rows that are fused after truncation, among all that reach the head."""

    rows: Bool[Tensor, "rows 1"]
    temperature: Float[Tensor, "rows 1"]
    count: int
    """How many there are."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The steered rows of a step; kept while neither rows nor groups change."""

    key: tuple[Any, ...]
    index: Int[Tensor, " steered"]
    """Their rows among all that reach the head."""
    everyone: bool
    """Whether those are all rows, in order."""
    layout: Layout
    beta: Float[Tensor, " steered"]
    members: Sequence[Member]
    ones: Int[Tensor, " steered"]
    unfinished: Bool[Tensor, " steered"]
    survivors: Survivors | None
    """None: no row is fused after truncation."""


def lay_out(
    key: tuple[Any, ...], rows: int, steered: Steered, open_groups: int, device: torch.device
) -> Plan:
    """Return the plan of a step.

    Args:
        key: What tells it from another one.
        rows: How many reach the head.
        steered: Those that are steered.
        open_groups: How many slots of the bank may be in use.
        device: Where the head is.
    """
    index = upload([row for row, _ in steered], torch.long, device)
    slots = [member.group.slot for _, member in steered if member.group.slot is not None]
    return Plan(
        key=key,
        index=index,
        everyone=len(steered) == rows,
        layout=Layout.of(slots, open_groups, device),
        beta=upload([member.beta for _, member in steered], torch.float32, device),
        members=[member for _, member in steered],
        ones=torch.ones_like(index),
        unfinished=torch.ones_like(index, dtype=torch.bool),
        survivors=_survivors(rows, steered, device),
    )


def _survivors(rows: int, steered: Steered, device: torch.device) -> Survivors | None:
    judged = {row: member.sampling.temperature for row, member in steered if member.reference}
    if not judged:
        return None
    temperatures = [judged.get(row, 1.0) for row in range(rows)]
    return Survivors(
        rows=upload([row in judged for row in range(rows)], torch.bool, device)[:, None],
        temperature=upload(temperatures, torch.float32, device)[:, None],
        count=len(judged),
    )
