"""Control: ESamp whose distillers stop learning after the first tokens.

    a row is learnt from while it has drawn at most `after` tokens; it is steered to its end

What learning online is worth: with a distiller that has settled early, nothing changes. With 0 the
distiller predicts zero for ever, which is sharpening. Source: ours.
"""

from dataclasses import dataclass, replace

from jaxtyping import Int
from torch import Tensor

from esamp.baselines.checks import check_count
from esamp.explorer import ESamp, Explorer
from esamp.method import Call, Step, Wrapper


@dataclass(frozen=True, kw_only=True)
class Frozen(Wrapper):
    """ESamp that learns from the beginning of each sample only."""

    esamp: ESamp = ESamp()
    """Where strength, distiller and the rest come from."""
    after: int = 8
    """Tokens drawn after the first one that are learnt from."""
    name: str = "frozen"

    def __post_init__(self) -> None:
        check_count("after", self.after, 0)

    @property
    def within(self) -> ESamp:
        """Where the rest comes from."""
        return self.esamp

    def start(self, call: Call) -> "FreezingExplorer":
        """Return fresh distillers."""
        return FreezingExplorer(self, call)


class FreezingExplorer(Explorer):
    """An explorer that stops learning."""

    def __init__(self, settings: Frozen, call: Call) -> None:
        super().__init__(settings.esamp, call.capacity, call.hidden, call.device)
        self._after = settings.after

    def learn(self, step: Step, tokens: Int[Tensor, " rows"]) -> None:
        """Teach what ESamp teaches, as long as it lasts."""
        early = step.unfinished & (step.positions <= self._after)
        super().learn(replace(step, unfinished=early), tokens)
