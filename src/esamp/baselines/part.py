"""Control: a part of the residual in place of the whole.

The residual is the sum of three parts that are at right angles to each other:

    deep    its projection on deep: fused logits are sharper or flatter, and nothing else
    mean    of what is left, the projection on the group's running mean of deep states
    rest    what neither of them explains

The head reads deep + β·part; everything else is ESamp's, and the novelty is that of the part. What
the mean-only distiller leaves unexplained has no rest. Source: ours.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from esamp.baselines.checks import check_choice
from esamp.distiller import MeanDistiller
from esamp.explorer import ESamp, Explorer
from esamp.fusion import across, onto
from esamp.method import Call, Step, Wrapper

Kept = Literal["deep", "mean", "rest"]
"""Parts of a residual."""


@dataclass(frozen=True, kw_only=True)
class Part(Wrapper):
    """ESamp that pushes along one part of the residual."""

    esamp: ESamp = ESamp()
    """Where strength, distiller and the rest come from."""
    kept: Kept = "rest"
    """The part that is pushed along."""
    name: str = "part"

    def __post_init__(self) -> None:
        check_choice("kept", self.kept, Kept)

    @property
    def within(self) -> ESamp:
        """Where the rest comes from."""
        return self.esamp

    def start(self, call: Call) -> "PartExplorer":
        """Return fresh distillers, and fresh means beside them."""
        return PartExplorer(self, call)


def split(
    residual: Float[Tensor, "rows hidden"],
    deep: Float[Tensor, "rows hidden"],
    mean: Float[Tensor, "rows hidden"],
) -> dict[Kept, Float[Tensor, "rows hidden"]]:
    """Return the parts of a residual; they add up to it."""
    beside = across(residual, deep)
    shared = onto(beside, across(mean, deep))
    return {"deep": residual - beside, "mean": shared, "rest": beside - shared}


class PartExplorer(Explorer):
    """An explorer that keeps one part of the residual."""

    def __init__(self, settings: Part, call: Call) -> None:
        super().__init__(settings.esamp, call.capacity, call.hidden, call.device)
        self._kept = settings.kept
        self._mean = MeanDistiller().open(call.capacity, call.hidden, call.device)

    def explore(
        self, step: Step, residual: Float[Tensor, "rows hidden"]
    ) -> Float[Tensor, "rows hidden"]:
        """Return the part that is kept."""
        mean = self._mean.predict(step.shallow, step.layout)
        return split(residual, step.deep, mean)[self._kept]

    def learn(self, step: Step, tokens: Int[Tensor, " rows"]) -> None:
        """Teach the means what the distillers are taught."""
        super().learn(step, tokens)
        self._mean.learn(step.shallow, step.deep, self.taught(step), step.layout)
