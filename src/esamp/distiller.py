"""What a Latent Distiller is, and the smallest one.

A distiller predicts deep from shallow. Settings (`Distiller`) and state (`Bank`) are two things: a
bank holds one distiller per group as batched tensors, so that a step costs the same few batched
operations whatever the number of groups.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from esamp.errors import UsageError
from esamp.layout import Layout


@runtime_checkable
class Bank(Protocol):
    """The distillers of all groups. State is fp32 and deterministic.

    A layout may have fewer groups than the bank: then a step works on the first ones only, so open
    groups are kept in front.
    """

    def predict(
        self, shallow: Float[Tensor, "rows hidden"], layout: Layout
    ) -> Float[Tensor, "rows hidden"]:
        """Predict each row's deep state with its group's distiller."""

    def learn(
        self,
        shallow: Float[Tensor, "rows hidden"],
        deep: Float[Tensor, "rows hidden"],
        taught: Bool[Tensor, " rows"],
        layout: Layout,
    ) -> None:
        """Learn from the rows in `taught`; a group without one takes no step."""

    def reset(self, groups: Int[Tensor, " some"]) -> None:
        """Make the distillers of some groups new."""

    def move(self, source: int, target: int) -> None:
        """Put one group's distiller in place of another's; what is left behind is undefined."""


@runtime_checkable
class Distiller(Protocol):
    """Settings of a distiller."""

    @property
    def name(self) -> str:
        """Name in tables and on the command line."""

    def open(self, groups: int, hidden: int, device: torch.device | str) -> Bank:
        """Return fresh distillers for that many groups."""

    def state_bytes(self, hidden: int) -> int:
        """Bytes of state per group."""


def check_positive(name: str, value: float) -> None:
    """Raise UsageError unless a setting is a finite number above 0."""
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{name} is {value}: give a finite number above 0")


@dataclass(frozen=True, kw_only=True)
class MeanDistiller:
    """Predicts the running mean of the group's deep states, whatever shallow is.

    The null model: what ESamp does without a distiller worth the name. It is also
    `RecursiveDistiller` with the bias feature alone, at the same ridge. Source: ours.
    """

    ridge: float = 0.0
    """Shrinks the mean towards zero: sum / (count + ridge)."""
    name: str = "mean"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.ridge) and self.ridge >= 0):
            raise UsageError(f"ridge is {self.ridge}: give a finite number, 0 or above")

    def open(self, groups: int, hidden: int, device: torch.device | str) -> "MeanBank":
        """Return fresh means, all zero."""
        return MeanBank(self.ridge, groups, hidden, device)

    def state_bytes(self, hidden: int) -> int:
        """A sum and a count."""
        return 4 * (hidden + 1)


class MeanBank:
    """Running sums and counts of all groups."""

    def __init__(self, ridge: float, groups: int, hidden: int, device: torch.device | str) -> None:
        self._ridge = ridge
        self.total = torch.zeros(groups, hidden, device=device)
        self.count = torch.zeros(groups, 1, device=device)

    def predict(
        self, shallow: Float[Tensor, "rows hidden"], layout: Layout
    ) -> Float[Tensor, "rows hidden"]:
        """Return the mean of each row's group; zero before the first state."""
        weight = self.count[: layout.groups] + self._ridge
        mean = self.total[: layout.groups] / weight
        return torch.where(weight > 0, mean, 0.0)[layout.group]

    def learn(
        self,
        shallow: Float[Tensor, "rows hidden"],
        deep: Float[Tensor, "rows hidden"],
        taught: Bool[Tensor, " rows"],
        layout: Layout,
    ) -> None:
        """Add the taught rows to their groups."""
        mask = layout.pack_mask(taught)
        taken = torch.where(mask[..., None], layout.pack(deep), 0.0)
        self.total[: layout.groups] += taken.sum(dim=1)
        self.count[: layout.groups] += mask.sum(dim=1, keepdim=True)

    def reset(self, groups: Int[Tensor, " some"]) -> None:
        """Forget the sums of some groups."""
        self.total.index_fill_(0, groups, 0.0)
        self.count.index_fill_(0, groups, 0.0)

    def move(self, source: int, target: int) -> None:
        """Copy a group's sums."""
        self.total[target] = self.total[source]
        self.count[target] = self.count[source]
