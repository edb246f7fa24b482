"""ESamp: its settings and its one stateful object.

The algorithm, per row of a step:

    predicted = distiller(shallow);  residual = deep − predicted
    the head reads deep + β·residual, or deep + β·(the residual at right angles to deep)
    after the draw, the distiller learns (shallow, deep)

The first token of a request follows the prompt; it is neither steered nor learnt from (paper, B.3).
"""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from esamp.capture import Captured, capture
from esamp.distiller import Bank, Distiller, MeanDistiller
from esamp.errors import UsageError
from esamp.fusion import across, push_states
from esamp.method import Call, Push, Scope, Steering, Step, Truncation
from esamp.mlp import MLPDistiller
from esamp.recursive import RecursiveDistiller

Direction = Literal["residual", "orthogonal"]
"""What is pushed along: the residual, or its part at right angles to deep."""

DistillerName = Literal["recursive", "mlp", "mean"]

DISTILLERS: dict[DistillerName, type[RecursiveDistiller | MLPDistiller | MeanDistiller]] = {
    "recursive": RecursiveDistiller,
    "mean": MeanDistiller,
    "mlp": MLPDistiller,
}
"""What a distiller is called on the command line and in an engine's settings."""


@dataclass(frozen=True, kw_only=True)
class ESamp:
    """Exploratory Sampling. What spoke for each default stands in `docs/defaults.md`.

    Example:
        `ESamp(beta=0.25)`, or the paper's exact setting: `ESamp.paper()`.
    """

    beta: float = 0.25
    """Strength: fused logits = (1+β)·reference − β·distilled; 0 is plain sampling."""
    distiller: Distiller = RecursiveDistiller()
    """What predicts deep from shallow."""
    scope: Scope = "prompt"
    """Who shares a distiller: one prompt's samples, all rows of a call, or nobody."""
    truncation: Truncation = "reference"
    """Which logits top-k, top-p and min-p judge."""
    push: Direction = "residual"
    """What is pushed along. The residual, as in the paper, lowers the temperature besides; with
    `orthogonal`, ours, β does nothing but push, and the temperature is the engine's alone."""
    layer: int = 1
    """Block whose output the distiller reads; 1 is the first."""
    learn_tokens: int | None = None
    """Tokens of each sample that are learnt from, from its second on; None: all, as in the paper.
    Once every row is past them a step learns nothing, which saves half of its cost."""
    capture: bool = True
    """On a GPU, replay steps as CUDA graphs and learn beside the model. Changes no number; False
    launches one kernel after another."""

    def __post_init__(self) -> None:
        check_beta(self.beta)
        if self.scope not in get_args(Scope):
            raise UsageError(f"scope is {self.scope!r}: give one of {', '.join(get_args(Scope))}")
        if self.truncation not in get_args(Truncation):
            allowed = ", ".join(get_args(Truncation))
            raise UsageError(f"truncation is {self.truncation!r}: give one of {allowed}")
        if self.push not in get_args(Direction):
            allowed = ", ".join(get_args(Direction))
            raise UsageError(f"push is {self.push!r}: give one of {allowed}")
        if self.layer < 1:
            raise UsageError(f"layer is {self.layer}: give 1 (the first block) or more")
        learn_tokens = self.learn_tokens
        if learn_tokens is not None and (type(learn_tokens) is not int or learn_tokens < 1):
            raise UsageError(
                f"learn_tokens is {learn_tokens!r}: give 1 or more, or none for all of them"
            )
        if not isinstance(self.capture, bool):
            raise UsageError(f"capture is {self.capture!r}: give true or false")

    @classmethod
    def paper(cls) -> "ESamp":
        """Return the setting of arXiv 2604.24927: its network, β 0.25, one distiller a prompt."""
        return cls(beta=0.25, distiller=MLPDistiller(), scope="prompt", truncation="reference")

    @property
    def name(self) -> str:
        """Name in tables and on the command line."""
        return "esamp"

    @property
    def needs_reference(self) -> bool:
        """ESamp works on states and reweights no logits."""
        return False

    @property
    def inert(self) -> bool:
        """Whether nothing is steered unless a request asks for its own β."""
        return self.beta == 0

    def start(self, call: Call) -> "Explorer | Captured":
        """Return fresh distillers for the groups of one call."""
        explorer = Explorer(self, call.capacity, call.hidden, call.device)
        captured = capture(explorer, call.device) if self.capture else None
        return captured or explorer


def check_beta(beta: float) -> None:
    """Raise UsageError unless β is a finite number, 0 or above."""
    if not (isinstance(beta, Real) and math.isfinite(beta) and beta >= 0):
        raise UsageError(f"beta is {beta!r}: give a finite number, 0 (off) or above; 0.25 is usual")


class Explorer(Steering):
    """The distillers of all open groups, and what is steered by them."""

    def __init__(
        self, settings: ESamp, groups: int, hidden: int, device: torch.device | str
    ) -> None:
        self.settings = settings
        self.bank: Bank = settings.distiller.open(groups, hidden, device)
        self._beta = torch.tensor(settings.beta, device=device)

    def steer(self, step: Step) -> Push:
        """Push each row along what its group's distiller could not predict.

        Left alone are first tokens, finished rows, and rows where anything is not finite, or would
        not be behind the head: their novelty is NaN, and the engine goes on with their own state.
        Rows with β 0 are left alone too, but judged: they have a novelty.
        """
        predicted = self.bank.predict(step.shallow, step.layout)
        residual = self.explore(step, step.deep - predicted)
        novelty = residual.norm(dim=-1) / step.deep.norm(dim=-1)
        beta = self.strength(step, novelty)
        if self.settings.push == "orthogonal":
            residual = across(residual, step.deep)
        pushed = push_states(step.deep, residual, beta)
        usable = self._steered(step) & torch.isfinite(pushed.norm(dim=-1) + novelty)
        states = torch.where((usable & (beta > 0))[:, None], pushed, step.deep)
        return Push(states, torch.where(usable, novelty, torch.nan))

    def explore(
        self, step: Step, residual: Float[Tensor, "rows hidden"]
    ) -> Float[Tensor, "rows hidden"]:
        """Return the direction to push along: the residual itself. Controls override this."""
        return residual

    def strength(
        self, step: Step, novelty: Float[Tensor, " rows"]
    ) -> Float[Tensor, ""] | Float[Tensor, " rows"]:
        """Return β, one for all or per row: the requests' or the method's. Knobs override this."""
        return self._beta if step.beta is None else step.beta

    def learn(self, step: Step, tokens: Int[Tensor, " rows"]) -> None:
        """Teach the distillers every unfinished row whose states are finite."""
        if self.learns(step):
            self.bank.learn(step.shallow, step.deep, self.taught(step), step.layout)

    def learns(self, step: Step) -> bool:
        """Return whether there may be a row to learn from; the device is not asked."""
        limit = self.settings.learn_tokens
        return limit is None or step.least_drawn <= limit

    def taught(self, step: Step) -> Bool[Tensor, " rows"]:
        """Return which rows are learnt from."""
        # The length, not the entries: a state may be finite and its square not.
        lengths = step.shallow.norm(dim=-1) + step.deep.norm(dim=-1)
        taught = self._steered(step) & torch.isfinite(lengths)
        limit = self.settings.learn_tokens
        return taught if limit is None else taught & (step.positions <= limit)

    @staticmethod
    def _steered(step: Step) -> Bool[Tensor, " rows"]:
        return step.unfinished & (step.positions > 0)
