r"""ESamp with a strength that is not the same everywhere: five knobs, each off unless it is set.

In hidden space, per row and before the head reads anything, with k the tokens drawn so far (1 at
the first steered token):

    warm_up n          β·min(1, k/n)
    beta_halflife h    β·2^(−k/h)
    reach c            β shrinks until ‖β·residual‖ ≤ c·‖deep‖

On logits, which costs a second projection and passes over rows·vocab, with p the reference's and q
the fused distribution at the row's temperature:

    gate h₀            β·min(1, H(p)/h₀): where the model is sure, it is left alone
    budget B           β shrinks until KL(q‖p) ≤ B

in this order; each sees what those before it have left of β. Where truncation judges the
reference, p and q are those of its survivors, after processors. Fused logits are linear in β, so a
share s of β is a share s of the way from reference to fused logits; where a model caps its logits,
of the way between the capped ones. A row whose logits cannot be judged keeps the reference.

Source: ours; the paper has one β for all tokens.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from esamp.baselines.checks import check_count, check_weight
from esamp.explorer import ESamp, Explorer
from esamp.method import Call, Step, Wrapper

PASSES = 8
"""Shares that are tried for each row of a step, each a pass over rows·vocab."""
CACHED = 2**18
"""Logits for each thread of a CPU that go through all passes before the next rows do: from one pass
to the next they stay in its cache."""
SLACK = 0.005
"""Share of the budget that the search leaves unspent, so that what it finds is within."""


@dataclass(frozen=True, kw_only=True)
class Moderated(Wrapper):
    """ESamp with its strength moderated for each row and token.

    Example:
        `Moderated(esamp=ESamp(beta=1.0), budget=0.1)`.
    """

    esamp: ESamp = ESamp()
    """Where the strength that is moderated comes from, and the rest."""
    budget: float = 0.0
    """Most KL(fused‖reference) of a token, in nats; 0: any."""
    gate: float = 0.0
    """Entropy of the reference, in nats, from which on β is full; 0: anywhere."""
    reach: float = 0.0
    """Most ‖β·residual‖/‖deep‖; 0: any."""
    warm_up: int = 0
    """Number of the steered token at which β is full; 0: the first."""
    beta_halflife: float = 0.0
    """Tokens after which β has halved; 0: it stays."""
    name: str = "moderated"

    def __post_init__(self) -> None:
        for knob in ("budget", "gate", "reach", "beta_halflife"):
            check_weight(knob, getattr(self, knob))
        check_count("warm_up", self.warm_up, 0)

    @property
    def within(self) -> ESamp:
        """Where the rest comes from."""
        return self.esamp

    @property
    def needs_reference(self) -> bool:
        """Whether a knob is set that works on logits."""
        return self.budget > 0 or self.gate > 0

    def start(self, call: Call) -> "Moderator":
        """Return fresh distillers."""
        return Moderator(self, call)


class Moderator(Explorer):
    """An explorer that shrinks β, in hidden space and then on logits."""

    def __init__(self, settings: Moderated, call: Call) -> None:
        super().__init__(settings.esamp, call.capacity, call.hidden, call.device)
        self._knobs = settings
        self._temperature = call.temperature

    def strength(
        self, step: Step, novelty: Float[Tensor, " rows"]
    ) -> Float[Tensor, ""] | Float[Tensor, " rows"]:
        """Return β after warm-up, decay and reach."""
        beta, knobs = super().strength(step, novelty), self._knobs
        if knobs.warm_up > 0:
            beta = beta * (step.positions / knobs.warm_up).clamp(max=1)
        if knobs.beta_halflife > 0:
            beta = beta * torch.exp2(-step.positions / knobs.beta_halflife)
        if knobs.reach > 0:
            beta = torch.minimum(beta, knobs.reach / novelty)
        return beta

    def reweight(
        self,
        step: Step,
        logits: Float[Tensor, "rows vocab"],
        reference: Float[Tensor, "rows vocab"] | None,
    ) -> Float[Tensor, "rows vocab"]:
        """Return logits after gate and budget, unless fusion is still to come."""
        if reference is None or logits is reference:
            return logits
        return self._moderate(reference, logits, self._temperature)

    def settle(
        self,
        step: Step,
        scores: Float[Tensor, "rows vocab"],
        reference: Float[Tensor, "rows vocab"],
    ) -> Float[Tensor, "rows vocab"]:
        """Return the survivors' scores after gate and budget; the temperature is in them."""
        return self._moderate(reference, scores, 1.0) if self._knobs.needs_reference else scores

    def _moderate(
        self,
        reference: Float[Tensor, "rows vocab"],
        fused: Float[Tensor, "rows vocab"],
        temperature: float,
    ) -> Float[Tensor, "rows vocab"]:
        """Moderate all rows at once, or on a CPU a few after the other."""
        if reference.device.type != "cpu":
            return self._moderate_rows(reference, fused, temperature)
        few = max(1, CACHED * torch.get_num_threads() // reference.shape[-1])
        pairs = zip(reference.split(few), fused.split(few), strict=True)
        return torch.cat([self._moderate_rows(*pair, temperature) for pair in pairs])

    def _moderate_rows(
        self,
        reference: Float[Tensor, "rows vocab"],
        fused: Float[Tensor, "rows vocab"],
        temperature: float,
    ) -> Float[Tensor, "rows vocab"]:
        """Go a share of the way from reference to fused; rows at share 1 are fused as they are."""
        plain = (reference / temperature).log_softmax(dim=-1)
        change = torch.where(reference.isneginf(), 0.0, fused - reference)
        share = change.sum(dim=-1).isfinite().to(change.dtype)
        if self._knobs.gate > 0:
            share = share * (entropy(plain) / self._knobs.gate).clamp(max=1)
        if self._knobs.budget > 0:
            full = torch.addcmul(plain, change, share[:, None], value=1 / temperature)
            share = share * share_within(plain, full.log_softmax(dim=-1), self._knobs.budget)
        moved = torch.addcmul(reference, change, share[:, None])
        moved = torch.where(share[:, None] > 0, moved, reference)
        return torch.where(share[:, None] == 1, fused, moved)


def entropy(logprobs: Float[Tensor, "rows vocab"]) -> Float[Tensor, " rows"]:
    """Return the entropy of each row in nats; a token that is cut away adds nothing."""
    return -torch.where(logprobs.isneginf(), 0.0, logprobs.exp() * logprobs).sum(dim=-1)


def share_within(
    plain: Float[Tensor, "rows vocab"], steered: Float[Tensor, "rows vocab"], budget: float
) -> Float[Tensor, " rows"]:
    """Return for each row the largest share s in [0, 1] with KL(p_s‖plain) ≤ budget.

    p_s is proportional to plain^(1−s)·steered^s. With gap = log steered − log plain,

        KL(s) = s·E_s[gap] − log E_plain[exp(s·gap)]      dKL/ds = s·Var_s[gap] ≥ 0

    and √KL is nearly linear in s. So: Newton's method on √KL, from where the line through both ends
    meets the budget, and halving where a step would leave the interval that is known to hold s.
    `PASSES` shares are tried whatever the rows, so nothing waits for the device. Returned is the
    largest that was tried and within: never too much, and usually between 1 − 2·`SLACK` and 1 times
    the budget is spent. In fp32 a divergence is known to about 1e-6 nats.

    Args:
        plain: Log-probabilities; −inf: cut away.
        steered: Log-probabilities of the same tokens.
        budget: In nats, above 0.

    Returns:
        1 for rows that are within the budget as they are; 0 for rows without a finite divergence.
    """
    gap = torch.where(plain.isneginf(), 0.0, steered - plain)
    whole = (steered.exp() * gap).sum(dim=-1)
    aim = budget * (1 - SLACK)
    low, high = torch.zeros_like(whole), torch.ones_like(whole)
    share = (aim / whole).sqrt().clamp(max=1)
    for _ in range(PASSES):
        # Both ends are normalised, so no exponent is above 0.
        weights = torch.addcmul(plain, gap, share[:, None]).exp_()
        total = weights.sum(dim=-1)
        mean = weights.mul_(gap).sum(dim=-1) / total
        variance = weights.mul_(gap).sum(dim=-1) / total - mean.square()
        divergence = share * mean - total.log()
        within = divergence <= budget
        low, high = torch.where(within, share, low), torch.where(within, high, share)
        root = divergence.clamp(min=0).sqrt()
        newton = share + 2 * root * (aim**0.5 - root) / (share * variance)
        inside = (newton > low) & (newton < high)
        share = torch.where(inside, newton, (low + high) / 2)
    return torch.where(whole <= budget, 1.0, low)
