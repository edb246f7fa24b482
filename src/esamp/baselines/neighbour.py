"""Control: each prompt is steered by the distiller of the prompt beside it.

    predicted = distiller of the next group (shallow);  residual = deep − predicted

The last group's next is the first. Each distiller learns from its own group, as ever. If what
counts is what *these* samples have in common, this must do worse; if it does as well, a distiller
needs to know what texts are like and nothing of this one. A prompt alone in its call has no
neighbour and is left plain. Source: ours.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from esamp.explorer import ESamp, Explorer
from esamp.layout import Layout
from esamp.method import Call, Step, Wrapper


@dataclass(frozen=True, kw_only=True)
class Neighbour(Wrapper):
    """ESamp with the distillers of a call passed on by one."""

    esamp: ESamp = ESamp()
    """Where strength, distiller and the rest come from."""
    name: str = "neighbour"

    @property
    def within(self) -> ESamp:
        """Where the rest comes from."""
        return self.esamp

    def start(self, call: Call) -> "NeighbouringExplorer":
        """Return fresh distillers."""
        return NeighbouringExplorer(self.esamp, call.capacity, call.hidden, call.device)


def passed_on(layout: Layout) -> Layout:
    """Return the layout in which each row stands where it stood, one group further."""
    groups, places = layout.index.shape
    return replace(
        layout,
        index=layout.index.roll(1, dims=0),
        occupied=layout.occupied.roll(1, dims=0),
        place=(layout.place + places) % max(groups * places, 1),
        group=(layout.group + 1) % max(groups, 1),
        in_order=False,
    )


class NeighbouringExplorer(Explorer):
    """An explorer that asks another group's distiller."""

    def explore(
        self, step: Step, residual: Float[Tensor, "rows hidden"]
    ) -> Float[Tensor, "rows hidden"]:
        """Return what the next group's distiller leaves unexplained."""
        if step.layout.groups < 2:
            return torch.zeros_like(residual)
        return step.deep - self.bank.predict(step.shallow, passed_on(step.layout))
