"""FIRE: the first token drawn hot, the rest as ever. It goes in front of any method.

    first token:  softmax(top-k of logits / T_first), k = 16, T_first = 30
    the rest:     the method within, plain sampling by default, at the normal temperature

Source: arXiv 2410.21236; the heat as in the ESamp paper (table 13: 10, 30 and 50), which leaves k
open; 16 is ours. FIRE + ESamp is table 15 there.

The engine divides by its own temperature T after `reweight`, so that logits·T/T_first are handed
on: the first token is then drawn at T_first, whatever T is. Truncation of the engine's comes on top
of k, on the hot distribution.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from esamp.baselines.checks import check_count
from esamp.distiller import check_positive
from esamp.errors import UsageError
from esamp.method import Call, Method, Push, Steering, Step, Vanilla, Wrapper
from esamp.sampling import top_k

PLAIN = Vanilla()


@dataclass(frozen=True, kw_only=True)
class Fire(Wrapper):
    """A hot first token in front of a method."""

    first_temperature: float = 30.0
    """Temperature of the first token."""
    first_top_k: int = 16
    """Most likely tokens that the first one is drawn from; 0 is all."""
    within: Method = PLAIN
    """What decodes the rest."""

    def __post_init__(self) -> None:
        check_positive("first_temperature", self.first_temperature)
        check_count("first_top_k", self.first_top_k, 0)
        if isinstance(self.within, Fire):
            raise UsageError("within is FIRE too: give FIRE another method, or none")

    @property
    def name(self) -> str:
        """Name in tables and on the command line."""
        return "fire"

    @property
    def inert(self) -> bool:
        """The first token is hot whatever is within."""
        return False

    def start(self, call: Call) -> "FirstHot":
        """Return what heats first tokens, with fresh state of the method within."""
        return FirstHot(self, call)


class FirstHot(Steering):
    """The steering within, with other logits at position 0."""

    def __init__(self, settings: Fire, call: Call) -> None:
        self._within = settings.within.start(call)
        self._top_k = settings.first_top_k
        self._cooling = call.temperature / settings.first_temperature

    def steer(self, step: Step) -> Push | None:
        """Return what the method within wants read."""
        return self._within.steer(step)

    def reweight(
        self,
        step: Step,
        logits: Float[Tensor, "rows vocab"],
        reference: Float[Tensor, "rows vocab"] | None,
    ) -> Float[Tensor, "rows vocab"]:
        """Heat first tokens, whenever their rows arrive."""
        usual = self._within.reweight(step, logits, reference)
        hot = top_k(usual, self._top_k) * self._cooling
        return torch.where(step.positions[:, None] == 0, hot, usual)

    def settle(
        self,
        step: Step,
        scores: Float[Tensor, "rows vocab"],
        reference: Float[Tensor, "rows vocab"],
    ) -> Float[Tensor, "rows vocab"]:
        """Leave it to the method within; first tokens are not fused."""
        return self._within.settle(step, scores, reference)

    def learn(self, step: Step, tokens: Int[Tensor, " rows"]) -> None:
        """Let the method within learn."""
        self._within.learn(step, tokens)
