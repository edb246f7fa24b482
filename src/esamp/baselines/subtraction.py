"""Subtraction fusion: the reference keeps weight 1.

    logits = reference − β·distilled = W·(deep − β·predicted)

Everything else is ESamp's, whose reference has weight 1+β: this is the paper's ablation of that
weight (table 2, β 0.1, 0.2 and 0.5), and far worse there as β grows. A head's bias keeps weight 1.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from esamp.explorer import ESamp, Explorer
from esamp.method import Call, Push, Step, Wrapper


@dataclass(frozen=True, kw_only=True)
class Subtraction(Wrapper):
    """ESamp with the distilled logits subtracted, and the reference not raised for it."""

    esamp: ESamp = ESamp()
    """Where strength, distiller and the rest come from."""

    @property
    def name(self) -> str:
        """Name in tables and on the command line."""
        return "subtraction"

    @property
    def within(self) -> ESamp:
        """Where the rest comes from."""
        return self.esamp

    def start(self, call: Call) -> "SubtractingExplorer":
        """Return fresh distillers."""
        return SubtractingExplorer(self.esamp, call.capacity, call.hidden, call.device)


class SubtractingExplorer(Explorer):
    """An explorer that pushes away from the prediction, not along the residual."""

    def steer(self, step: Step) -> Push:
        """Push rows as ESamp does, but by −predicted; their novelty is ESamp's."""
        push = super().steer(step)
        assert push.novelty is not None, "an explorer judges"
        # An explorer takes the length of what it pushes along for the residual's.
        novelty = self._residual.norm(dim=-1) / step.deep.norm(dim=-1)
        return Push(push.states, novelty.where(push.novelty.isfinite(), torch.nan))

    def explore(
        self, step: Step, residual: Float[Tensor, "rows hidden"]
    ) -> Float[Tensor, "rows hidden"]:
        """Return −predicted, so that deep + β·(−predicted) is read."""
        self._residual = residual
        return residual - step.deep
