"""Where the rows of a step stand in their groups.

Rows come in the engine's order; a distiller bank works on `[groups, places, …]`. A `Layout` is the
map between the two. It is built on the host when the set of rows changes, which is not every step:
rows that finish in between are masked, not moved.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor


def upload(values: Sequence[Any], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Bring numbers to the device without waiting for what it is doing.

    A fresh pinned tensor each time: torch keeps it until the copy is done.
    """
    pinned = torch.device(device).type == "cuda"
    return torch.tensor(values, dtype=dtype, pin_memory=pinned).to(device, non_blocking=True)


@dataclass(frozen=True)
class Layout:
    """The map between rows and the places of their groups."""

    index: Int[Tensor, "groups places"]
    """Row that stands at a place; 0 where none does."""
    occupied: Bool[Tensor, "groups places"]
    """Whether a row stands at a place."""
    place: Int[Tensor, " rows"]
    """Place of each row, counted through all groups."""
    group: Int[Tensor, " rows"]
    """Group of each row."""
    in_order: bool = False
    """Whether rows stand at their places as they come, all places taken: then nothing is moved."""

    @classmethod
    def of(
        cls, groups: Sequence[int], capacity: int, device: torch.device | str = "cpu"
    ) -> "Layout":
        """Lay rows out by the group of each.

        Args:
            groups: Group of each row, each in `range(capacity)`.
            capacity: How many groups there are; a bank may hold more.
            device: Where the rows are.

        Raises:
            IndexError: A group is outside the bank.
        """
        seats: list[list[int]] = [[] for _ in range(capacity)]
        for row, group in enumerate(groups):
            if not 0 <= group < capacity:
                raise IndexError(f"row {row} belongs to group {group}, there are {capacity}")
            seats[group].append(row)
        places = max((len(rows) for rows in seats), default=0)
        index = [rows + [0] * (places - len(rows)) for rows in seats]
        occupied = [[seat < len(rows) for seat in range(places)] for rows in seats]
        place = [0] * len(groups)
        for group, rows in enumerate(seats):
            for seat, row in enumerate(rows):
                place[row] = group * places + seat
        return cls(
            upload(index, torch.long, device).view(capacity, places),
            upload(occupied, torch.bool, device).view(capacity, places),
            upload(place, torch.long, device),
            upload(groups, torch.long, device),
            in_order=place == list(range(capacity * places)),
        )

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return self.index.shape[0]

    def pack(self, values: Shaped[Tensor, "rows width"]) -> Shaped[Tensor, "groups places width"]:
        """Bring rows to their places; what stands at a free place is undefined."""
        if len(values) == 0:
            return values.new_zeros(*self.index.shape, values.shape[-1])
        if self.in_order:
            return values.view(*self.index.shape, -1)
        return values[self.index]

    def pack_mask(self, mask: Bool[Tensor, " rows"]) -> Bool[Tensor, "groups places"]:
        """Bring a mask to the rows' places; free places are False."""
        return self.pack(mask[:, None])[..., 0] & self.occupied

    def unpack(self, packed: Shaped[Tensor, "groups places width"]) -> Shaped[Tensor, "rows width"]:
        """Bring what stands at the places back into the engine's order."""
        flat = packed.flatten(0, 1)
        return flat if self.in_order else flat[self.place]
