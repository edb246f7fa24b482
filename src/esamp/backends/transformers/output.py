"""What is recorded along the way, and what a call returns."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.generation.utils import GenerateDecoderOnlyOutput

from esamp.backends.transformers.scores import Scored
from esamp.method import Push
from esamp.sampling import Drawn

_ALWAYS_SET: Any = None
"""`ModelOutput` wants a default for every field but the first."""


@dataclass
class ESampOutput(GenerateDecoderOnlyOutput):
    """`GenerateDecoderOnlyOutput` with what esamp adds; rows and tokens as in `sequences`.

    `scores` are those drawn from, `logits` the unsteered ones. Beyond a row's length all additions
    are NaN. The cache is returned only with `drop_finished=False`.
    """

    # Transformers declares these four as tuples of length one, which they are not.
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    hidden_states: tuple[Any, ...] | None = None

    lengths: Int[Tensor, " rows"] = _ALWAYS_SET
    """Tokens drawn per row, its end token included."""
    nonfinite: Bool[Tensor, " rows"] = _ALWAYS_SET
    """Rows that ended because their scores were not finite."""
    nonfinite_rows: Int[Tensor, ""] = _ALWAYS_SET
    """Row-steps that were sampled plainly, or ended, because a state was not finite."""
    logprobs: Float[Tensor, "rows tokens"] = _ALWAYS_SET
    """Log-probability of each token under the distribution it was drawn from."""
    novelty: Float[Tensor, "rows tokens"] | None = None
    """‖residual‖/‖deep‖ of each token; NaN for the first, and where a state is not finite."""
    distiller_error: Float[Tensor, " steps"] | None = None
    """Mean ‖residual‖²/‖deep‖² of each steered step; NaN where no row had one."""
    reference_logprobs: Float[Tensor, "rows tokens"] | None = None
    """Log-probability of each token under the unsteered distribution. Diagnostics only."""
    kl: Float[Tensor, "rows tokens"] | None = None
    """KL(drawn from‖reference) at each token, in nats. Diagnostics only.

    Where truncation judges the fused logits, the reference here is not truncated."""
    entropy: Float[Tensor, "rows tokens"] | None = None
    """Entropy of what was drawn from, in nats. Diagnostics only."""
    reference_entropy: Float[Tensor, "rows tokens"] | None = None
    """Entropy of the unsteered distribution, in nats. Diagnostics only."""


@dataclass
class Trace:
    """Columns of numbers, one per step, all rows each. Nothing is read back before the end."""

    rows: int
    columns: dict[str, list[Float[Tensor, " rows"]]] = field(default_factory=dict)

    def add(
        self, name: str, values: Float[Tensor, " active"], active: Int[Tensor, " active"] | None
    ) -> None:
        """Append a column; rows that have left the batch, or are finished, are NaN."""
        if active is not None:
            values = values.new_full((self.rows,), torch.nan).index_copy_(0, active, values)
        self.columns.setdefault(name, []).append(values)

    def table(self, name: str) -> Float[Tensor, "rows tokens"] | None:
        """Return the columns side by side; None if there are none."""
        columns = self.columns.get(name)
        return torch.stack(columns, dim=1) if columns else None


class Recorder:
    """Writes down what one call gives, step by step."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self.trace = Trace(rows)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self.nonfinite = torch.zeros(rows, dtype=torch.bool, device=device)
        self.nonfinite_rows = torch.zeros((), dtype=torch.long, device=device)

    def record(
        self,
        drawn: Drawn,
        push: Push | None,
        drawing: Bool[Tensor, " active"],
        active: Int[Tensor, " active"] | None,
    ) -> None:
        """Write down one step; `drawing` are the rows that drew a token."""
        self.trace.add("logprobs", drawn.logprobs.where(drawing, torch.nan), active)
        if push is not None and push.novelty is not None:
            self.trace.add("novelty", push.novelty.where(drawing, torch.nan), active)
            left_alone = drawing & push.novelty.isnan()
            # No first token is steered, so there a missing novelty says nothing.
            if len(self.trace.columns["logprobs"]) > 1:
                self.nonfinite_rows += left_alone.sum()

    def diagnose(
        self,
        scored: Scored,
        tokens: Int[Tensor, " active"],
        drawing: Bool[Tensor, " active"],
        active: Int[Tensor, " active"] | None,
    ) -> None:
        """Write down how what was drawn from compares with the reference."""
        assert scored.reference is not None, "diagnostics were asked for"
        sampled, plain = scored.scores.log_softmax(dim=-1), scored.reference.log_softmax(dim=-1)
        weights = sampled.exp()
        # 0·(−inf − −inf) is 0 here: a token that is cut away adds nothing.
        gap = torch.where(weights > 0, sampled - plain, 0.0)
        values = {
            "reference_logprobs": plain.gather(-1, tokens[:, None])[:, 0],
            "kl": (weights * gap).sum(dim=-1),
            "entropy": _entropy(sampled),
            "reference_entropy": _entropy(plain),
        }
        for name, value in values.items():
            self.trace.add(name, value.where(drawing, torch.nan), active)

    def additions(self) -> dict[str, Any]:
        """Return the fields that esamp adds to the output."""
        novelty = self.trace.table("novelty")
        names = ("reference_logprobs", "kl", "entropy", "reference_entropy", "logprobs")
        return {
            "lengths": self.lengths,
            "nonfinite": self.nonfinite,
            "nonfinite_rows": self.nonfinite_rows,
            "novelty": novelty,
            "distiller_error": None if novelty is None else novelty[:, 1:].square().nanmean(dim=0),
            **{name: self.trace.table(name) for name in names},
        }


def _entropy(logprobs: Float[Tensor, "rows vocab"]) -> Float[Tensor, " rows"]:
    weights = logprobs.exp()
    return -torch.where(weights > 0, weights * logprobs, 0.0).sum(dim=-1)
