"""OverRIDE: each sample is driven away from what a small head has learnt of the sample before it.

    guide n:    q_n = softmax(logits + Bₙ·Aₙ·deep)         A: hidden → 16, N(0, 0.02); B: zeros
    sample n:   p·(p/q_{n−1})^λ, so logits − λ·Bₙ₋₁·Aₙ₋₁·deep        λ = 0.8
    learning:   cross-entropy of q_n on the tokens of sample n, mean over rows, one Adam step (1e-3)

Samples of a prompt are a chain: sample 0 is plain, and with 10 heads so are those after sample 10.
The heads are shared by all prompts of a call, so that prompts are not independent of each other.
Source: Shi et al., "Diverse Text Decoding via Iterative Reweighting" (OpenReview 2Xd5RlypLx);
settings as in the ESamp paper (E.4).

Ours: heads start fresh with each call, and a head that no row teaches in a step stays as it is. All
heads are one matrix of rank heads·16, in which each row uses its own head's part: a few products of
fixed shape, and no copy of a head for each row.
"""

from collections import Counter
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from esamp.baselines.checks import check_count, check_weight
from esamp.distiller import check_positive
from esamp.layout import upload
from esamp.method import Call, Steering, Step, Vanilla, Wrapper

PLAIN = Vanilla()
SPREAD = 0.02
"""Standard deviation of A at the start."""
BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Of Adam."""


@dataclass(frozen=True, kw_only=True)
class OverRIDE(Wrapper):
    """Iterative reweighting with low-rank heads."""

    strength: float = 0.8
    """λ."""
    heads: int = 10
    """Samples of a prompt that a successor is driven away from."""
    rank: int = 16
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        check_weight("strength", self.strength)
        check_count("heads", self.heads, 1)
        check_count("rank", self.rank, 1)
        check_positive("learning_rate", self.learning_rate)

    @property
    def name(self) -> str:
        """Name in tables and on the command line."""
        return "override"

    @property
    def within(self) -> Vanilla:
        """All else is plain."""
        return PLAIN

    @property
    def inert(self) -> bool:
        """Whether the guides are learnt and not used."""
        return self.strength == 0

    def start(self, call: Call) -> "Chain":
        """Return fresh heads."""
        return Chain(self, call)


class Chain(Steering):
    """The heads of one call and Adam's state, fp32: 12·heads·rank·(hidden + vocab) bytes."""

    def __init__(self, settings: OverRIDE, call: Call) -> None:
        self._settings = settings
        seen: Counter[int] = Counter()
        numbers = []
        for group in call.groups:
            numbers.append(seen[group])
            seen[group] += 1
        self._number = upload(numbers, torch.long, call.device)
        generator = torch.Generator().manual_seed(call.seed)
        owner = [head for head in range(settings.heads) for _ in range(settings.rank)]
        self._owner = upload(owner, torch.long, call.device)
        down = SPREAD * torch.randn(call.hidden, len(owner), generator=generator)
        self.down = _Adam(down.to(call.device), settings.learning_rate)
        self.up: _Adam | None = None
        self._logits = torch.empty(0)

    def reweight(
        self,
        step: Step,
        logits: Float[Tensor, "rows vocab"],
        reference: Float[Tensor, "rows vocab"] | None,
    ) -> Float[Tensor, "rows vocab"]:
        """Take off what the guide of each row's predecessor adds."""
        if self.up is None:
            zeros = logits.new_zeros(len(self._owner), logits.shape[-1])
            self.up = _Adam(zeros, self._settings.learning_rate)
        self._logits = logits
        before = self._uses(self._number[step.samples] - 1)
        code = torch.where(before, step.deep @ self.down.weights, 0.0)
        return logits - self._settings.strength * (code @ self.up.weights)

    def learn(self, step: Step, tokens: Int[Tensor, " rows"]) -> None:
        """Teach each sample's own head the token that it has drawn.

        The gradients of softmax regression, written out: no graph, whatever mode the engine is in.
        """
        if self.up is None:
            return  # greedy decoding asks for no weights
        finite = step.deep.norm(dim=-1).isfinite() & self._logits.amax(dim=-1).isfinite()
        taught = (step.unfinished & finite)[:, None]
        uses = self._uses(self._number[step.samples]) & taught
        taught = uses.any(dim=-1, keepdim=True)
        deep = torch.where(taught, step.deep, 0.0)
        code = torch.where(uses, deep @ self.down.weights, 0.0)
        guide = torch.where(taught, self._logits, 0.0) + code @ self.up.weights
        error = guide.softmax(dim=-1)
        error.scatter_add_(1, tokens[:, None], error.new_full((len(error), 1), -1.0))
        error = torch.where(taught, error, 0.0) / taught.sum().clamp(min=1)
        back = torch.where(uses, error @ self.up.weights.T, 0.0)
        active = uses.any(dim=0)
        self.up.step(code.T @ error, active[:, None])
        self.down.step(deep.T @ back, active[None, :])

    def _uses(self, heads: Int[Tensor, " rows"]) -> Bool[Tensor, "rows width"]:
        """Return which part of all heads' ranks is each row's; none for a head that is not."""
        return heads[:, None] == self._owner


class _Adam:
    """Adam as `torch.optim.Adam` does it, on those parts of a matrix that are active."""

    def __init__(self, weights: Tensor, learning_rate: float) -> None:
        self.weights = weights
        self._rate = learning_rate
        self._first = torch.zeros_like(weights)
        self._second = torch.zeros_like(weights)
        self._steps = torch.zeros((), device=weights.device)

    def step(self, gradient: Tensor, active: Bool[Tensor, "#many #more"]) -> None:
        """Take one step; what is not active keeps its weights, moments and count."""
        on = active.float()
        self._steps = self._steps + on
        self._first.lerp_(gradient, on * (1 - BETAS[0]))
        self._second.lerp_(gradient.square(), on * (1 - BETAS[1]))
        count = self._steps.clamp(min=1)
        rate = on * self._rate / (1 - BETAS[0] ** count)
        spread = (self._second / (1 - BETAS[1] ** count)).sqrt_().add_(EPSILON)
        self.weights -= rate * self._first / spread
