"""Control: Gaussian noise of the residual's length in place of the residual.

    the head reads deep + β·‖residual‖·g/‖g‖        g ~ N(0, I), fresh for each row and token

Everything else is ESamp's: if the residual's direction matters, this must do worse. Source: paper,
tables 10 and 11 ("magnitude-matched"). Note that the reference keeps weight 1 here, while ESamp's
own part along deep sharpens; the temperature curve is the control for that.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from esamp.explorer import ESamp, Explorer
from esamp.method import Call, Scope, Step, Truncation


@dataclass(frozen=True, kw_only=True)
class GaussianNoise:
    """ESamp with the residual's direction drawn at random."""

    esamp: ESamp = ESamp()
    """Where strength, distiller and the rest come from."""
    name: str = "noise"

    @property
    def scope(self) -> Scope:
        """Who shares a group."""
        return self.esamp.scope

    @property
    def truncation(self) -> Truncation:
        """Which logits truncation judges."""
        return self.esamp.truncation

    @property
    def layer(self) -> int:
        """Block whose output is shown as shallow."""
        return self.esamp.layer

    @property
    def needs_reference(self) -> bool:
        """No logits are reweighted."""
        return False

    @property
    def inert(self) -> bool:
        """Whether nothing is steered unless a request asks for its own β."""
        return self.esamp.inert

    def start(self, call: Call) -> "NoiseExplorer":
        """Return fresh distillers and a private generator."""
        return NoiseExplorer(self.esamp, call)


class NoiseExplorer(Explorer):
    """An explorer that keeps the residual's length and loses its direction."""

    def __init__(self, settings: ESamp, call: Call) -> None:
        super().__init__(settings, call.capacity, call.hidden, call.device)
        self._samples = len(call.groups)
        self._generator = torch.Generator(call.device).manual_seed(call.seed)

    def explore(
        self, step: Step, residual: Float[Tensor, "rows hidden"]
    ) -> Float[Tensor, "rows hidden"]:
        """Return noise of each row's residual length."""
        # Drawn for every sample of the call, so that a row's noise does not depend on who has left.
        noise = torch.randn(
            self._samples, residual.shape[-1], generator=self._generator, device=residual.device
        )[step.samples]
        scale: Tensor = residual.norm(dim=-1) / noise.norm(dim=-1)
        return noise * scale[:, None]
