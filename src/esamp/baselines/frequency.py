"""Control: a frequency penalty over all that a group's samples have drawn.

    logits(v) = reference(v) − w·log(1 + count of v in the group)        w = 0.5

No model of meaning at all: samples of a prompt avoid each other's tokens. If ESamp is no better at
equal quality, its distiller only counts words. Source: ours.
"""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from esamp.baselines.checks import check_choice, check_weight
from esamp.method import Call, Scope, Steering, Step, Vanilla, Wrapper

PLAIN = Vanilla()


@dataclass(frozen=True, kw_only=True)
class FrequencyPenalty(Wrapper):
    """Plain decoding with a penalty on tokens that the group has drawn."""

    weight: float = 0.5
    """Nats taken off for each factor e in 1 + count."""
    scope: Scope = "prompt"
    """Who shares counts: one prompt's samples, all rows of a call, or nobody."""

    def __post_init__(self) -> None:
        check_weight("weight", self.weight)
        check_choice("scope", self.scope, Scope)

    @property
    def name(self) -> str:
        """Name in tables and on the command line."""
        return "frequency-penalty"

    @property
    def within(self) -> Vanilla:
        """All else is plain."""
        return PLAIN

    @property
    def inert(self) -> bool:
        """Whether nothing is taken off."""
        return self.weight == 0

    def start(self, call: Call) -> "Counter":
        """Return counts of zero."""
        return Counter(self.weight, call)


class Counter(Steering):
    """Counts of drawn tokens for each group, 4·vocab bytes a group."""

    def __init__(self, weight: float, call: Call) -> None:
        self._weight = weight
        self._groups = call.capacity
        self._counts: Float[Tensor, "groups vocab"] | None = None

    def reweight(
        self,
        step: Step,
        logits: Float[Tensor, "rows vocab"],
        reference: Float[Tensor, "rows vocab"] | None,
    ) -> Float[Tensor, "rows vocab"]:
        """Take off what the counts of each row's group say."""
        if self._counts is None:
            self._counts = logits.new_zeros(self._groups, logits.shape[-1])
        return logits - self._weight * self._counts.log1p()[step.layout.group]

    def learn(self, step: Step, tokens: Int[Tensor, " rows"]) -> None:
        """Count the tokens of unfinished rows."""
        if self._counts is None:
            return  # greedy decoding asks for no weights
        places = step.layout.group * self._counts.shape[-1] + tokens
        drawn = step.unfinished.to(self._counts.dtype)
        # Sums of ones are exact in any order.
        self._counts.view(-1).index_add_(0, places, drawn)
