"""Control: ESamp without its distiller's term, which is a lower temperature.

    logits = (1+β)·reference        the head reads (1+β)·deep

ESamp's fused logits are (1+β)·reference − β·distilled. If a distiller that knows nothing does as
well, the effect is temperature 1/(1+β), and nothing else. As in ESamp, first tokens are plain, and
truncation judges the reference unless told otherwise. A head's bias keeps weight 1. Source: ours,
as the paper has no such control.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from esamp.baselines.checks import check_choice
from esamp.explorer import check_beta
from esamp.method import Call, Push, Scope, Steering, Step, Truncation


@dataclass(frozen=True, kw_only=True)
class Sharpening:
    """ESamp with a distiller that predicts nothing."""

    beta: float = 0.25
    """Strength: logits are multiplied by 1+β."""
    truncation: Truncation = "reference"
    """Which logits top-k, top-p and min-p judge."""

    def __post_init__(self) -> None:
        check_beta(self.beta)
        check_choice("truncation", self.truncation, Truncation)

    @property
    def name(self) -> str:
        """Name in tables and on the command line."""
        return "sharpening"

    @property
    def scope(self) -> Scope:
        """Nothing is shared."""
        return "prompt"

    @property
    def layer(self) -> int:
        """Shallow states are not looked at."""
        return 1

    @property
    def needs_reference(self) -> bool:
        """It works on states and reweights no logits."""
        return False

    @property
    def inert(self) -> bool:
        """Whether nothing is sharpened unless a request asks for its own β."""
        return self.beta == 0

    def start(self, call: Call) -> "Sharpener":
        """Return what multiplies states."""
        return Sharpener(self.beta, call.device)


class Sharpener(Steering):
    """Multiplies deep states; it has no state of its own."""

    def __init__(self, beta: float, device: torch.device) -> None:
        self._beta = torch.tensor(beta, device=device)

    def steer(self, step: Step) -> Push:
        """Multiply the states of unfinished rows after their first token.

        Rows whose state would not be finite are left alone.
        """
        beta = self._beta if step.beta is None else step.beta
        sharp: Tensor = step.deep * (1 + beta[..., None])
        usable = step.unfinished & (step.positions > 0) & sharp.norm(dim=-1).isfinite()
        return Push(torch.where(usable[:, None], sharp, step.deep), None)
