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
from esamp.method import Call, Step, Wrapper


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Wrapper):
    """ESamp with the residual's direction drawn at random."""

    esamp: ESamp = ESamp()
    """Where strength, distiller and the rest come from."""
    name: str = "noise"

    @property
    def within(self) -> ESamp:
        """Where the rest comes from."""
        return self.esamp

    def start(self, call: Call) -> "NoiseExplorer":
        """Return fresh distillers and a private generator."""
        return NoiseExplorer(self.esamp, call)


def of_length(
    noise: Float[Tensor, "rows hidden"], residual: Float[Tensor, "rows hidden"]
) -> Float[Tensor, "rows hidden"]:
    """Return noise of each row's residual length."""
    scale: Tensor = residual.norm(dim=-1) / noise.norm(dim=-1)
    return noise * scale[:, None]


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
        return of_length(noise, residual)
