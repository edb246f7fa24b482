"""Control: a temperature that falls over the first tokens. It goes in front of any method.

    the head reads c·state        c = 1 + (1/final − 1)·min(1, k/over)        k: tokens drawn so far

so the first token is drawn at the arm's temperature T, and from token `over` on it is T·final; in
between 1/T grows evenly. What comes first decides what a text is about, so texts that are hot at
their beginning and cool after it may have a hot one's diversity at a cool one's perplexity, with no
method at all: whoever gains over constant temperatures has to be compared with this too. ESamp
alone does the opposite. Its distiller predicts nothing at first, so first tokens are the sharpest.

`state` is what the method within wants read, or deep. Truncation judges the reference at T unless
the method says otherwise. A head's bias keeps weight 1. Source: ours.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from esamp.baselines.checks import check_count
from esamp.distiller import check_positive
from esamp.errors import UsageError
from esamp.method import Call, Method, Push, Steering, Step, Vanilla, Wrapper

PLAIN = Vanilla()


@dataclass(frozen=True, kw_only=True)
class Cooling(Wrapper):
    """A falling temperature in front of a method.

    Example:
        `Cooling(within=ESamp(beta=0.5), final=0.6, over=16)`.
    """

    final: float = 0.6
    """Temperature from token `over` on, as a share of the engine's."""
    over: int = 16
    """Tokens over which it falls; 1: the first token alone is hot."""
    within: Method = PLAIN
    """What decodes."""

    def __post_init__(self) -> None:
        check_positive("final", self.final)
        check_count("over", self.over, 1)
        if isinstance(self.within, Cooling):
            raise UsageError("within is cooling too: give cooling another method, or none")

    @property
    def name(self) -> str:
        """Name in tables and on the command line."""
        return "cooling"

    @property
    def inert(self) -> bool:
        """Whether the temperature stays and the method within changes nothing."""
        return self.final == 1 and self.within.inert

    def start(self, call: Call) -> "Cooler":
        """Return what cools, with fresh state of the method within."""
        return Cooler(self, call)


def cool(
    states: Float[Tensor, "rows hidden"], step: Step, settings: Cooling
) -> Float[Tensor, "rows hidden"]:
    """Return c·state for unfinished rows after their first token.

    Rows whose state would not be finite are left as they are.
    """
    share = (step.positions / settings.over).clamp(max=1)
    cooled: Tensor = states * (1 + (1 / settings.final - 1) * share)[:, None]
    usable = step.unfinished & (step.positions > 0) & cooled.norm(dim=-1).isfinite()
    return torch.where(usable[:, None], cooled, states)


class Cooler(Steering):
    """The steering within, with longer states."""

    def __init__(self, settings: Cooling, call: Call) -> None:
        self._within = settings.within.start(call)
        self._settings = settings

    def steer(self, step: Step) -> Push | None:
        """Return what the method within wants read, longer by what its place asks for."""
        push = self._within.steer(step)
        if self._settings.final == 1:
            return push
        states = step.deep if push is None else push.states
        novelty = None if push is None else push.novelty
        return Push(cool(states, step, self._settings), novelty)

    def reweight(
        self,
        step: Step,
        logits: Float[Tensor, "rows vocab"],
        reference: Float[Tensor, "rows vocab"] | None,
    ) -> Float[Tensor, "rows vocab"]:
        """Leave it to the method within."""
        return self._within.reweight(step, logits, reference)

    def settle(
        self,
        step: Step,
        scores: Float[Tensor, "rows vocab"],
        reference: Float[Tensor, "rows vocab"],
    ) -> Float[Tensor, "rows vocab"]:
        """Leave it to the method within."""
        return self._within.settle(step, scores, reference)

    def learn(self, step: Step, tokens: Int[Tensor, " rows"]) -> None:
        """Let the method within learn."""
        self._within.learn(step, tokens)
