"""Contrastive decoding: tokens that the model likes better than an amateur does.

    s(v) = (1+β)·expert(v) − β·amateur(v)    where p_expert(v) ≥ α·max p_expert, else −∞

with logits of both, α 0.1 and β 0.5; processors, temperature and truncation then see s. The amateur
is the same model cut off after block N (`layers:10`, the default: its state goes through the final
norm and the head), or a second model with the same tokenizer, named by Hub id or path.

Source: α and the plausible set arXiv 2210.15097; the form with β arXiv 2309.09117; sampling from it
as in the ESamp paper (E.4), which names small models of the same family as amateurs and no α, β.
"""

import math
import re
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from esamp.baselines.checks import check_share, check_weight
from esamp.errors import ModelError, UsageError
from esamp.method import Call, Follower, Norm, Push, Scope, Steering, Step, Truncation

EARLY_EXIT = re.compile(r"layers:([1-9]\d*)")


@dataclass(frozen=True, kw_only=True)
class ContrastiveDecoding:
    """An expert and an amateur."""

    amateur: str = "layers:10"
    """`layers:N`, or a model's Hub id or path."""
    beta: float = 0.5
    """Weight of the amateur."""
    alpha: float = 0.1
    """Plausible are tokens at least α times as likely as the likeliest; 0: all."""

    def __post_init__(self) -> None:
        check_weight("beta", self.beta)
        check_share("alpha", self.alpha)
        if not self.amateur or (
            self.amateur.startswith("layers:") and EARLY_EXIT.fullmatch(self.amateur) is None
        ):
            raise UsageError(
                f"amateur is {self.amateur!r}: give layers:N with N from 1 (early exit after block "
                "N), or the Hub id or path of a second model"
            )

    @property
    def name(self) -> str:
        """Name in tables and on the command line."""
        return "contrastive"

    @property
    def early_exit(self) -> bool:
        """Whether the amateur is the model itself."""
        return EARLY_EXIT.fullmatch(self.amateur) is not None

    @property
    def scope(self) -> Scope:
        """Nothing is shared."""
        return "prompt"

    @property
    def truncation(self) -> Truncation:
        """Everything judges s, which cuts implausible tokens away by itself."""
        return "fused"

    @property
    def layer(self) -> int:
        """Block after which the amateur stops."""
        exit_at = EARLY_EXIT.fullmatch(self.amateur)
        return 1 if exit_at is None else int(exit_at[1])

    @property
    def needs_reference(self) -> bool:
        """With early exit the head reads the amateur's states, and the model's own besides."""
        return self.early_exit

    @property
    def inert(self) -> bool:
        """Whether neither the amateur nor the plausible set changes anything."""
        return self.beta == 0 and self.alpha == 0

    def start(self, call: Call) -> Steering:
        """Return what contrasts.

        Raises:
            ModelError: There is no way to the amateur's logits.
        """
        if self.early_exit:
            if call.norm is None:
                raise ModelError(
                    "the model's final norm was not found, so no earlier block's state can be "
                    "read by the head: give contrastive decoding a second model as its amateur"
                )
            return EarlyExit(self, call.norm)
        if call.follow is None:
            raise ModelError(
                f"amateur {self.amateur!r} reads token ids, and these prompts are more than that "
                "(embeddings, images or a cache), or this backend has no second model: use "
                "amateur='layers:10'"
            )
        return SecondModel(self, call.follow(self.amateur))

    def contrast(
        self, expert: Float[Tensor, "rows vocab"], amateur: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        """Return s; tokens that the amateur lacks (−∞) are cut away."""
        scores = (1 + self.beta) * expert - self.beta * amateur
        kept = amateur > -math.inf
        if self.alpha > 0:
            kept = kept & (expert >= expert.amax(dim=-1, keepdim=True) + math.log(self.alpha))
        return scores.where(kept, -math.inf)


class EarlyExit(Steering):
    """The amateur is the model without its later blocks."""

    def __init__(self, settings: ContrastiveDecoding, norm: Norm) -> None:
        self._settings = settings
        self._norm = norm

    def steer(self, step: Step) -> Push:
        """Let the head read the amateur's states."""
        return Push(self._norm(step.shallow), None)

    def reweight(
        self,
        step: Step,
        logits: Float[Tensor, "rows vocab"],
        reference: Float[Tensor, "rows vocab"] | None,
    ) -> Float[Tensor, "rows vocab"]:
        """Contrast the model's own logits with those of the earlier state."""
        assert reference is not None, "needs_reference asks for it"
        return self._settings.contrast(reference, logits)


class SecondModel(Steering):
    """The amateur is another model, which reads what the rows read."""

    def __init__(self, settings: ContrastiveDecoding, amateur: Follower) -> None:
        self._settings = settings
        self._amateur = amateur

    def reweight(
        self,
        step: Step,
        logits: Float[Tensor, "rows vocab"],
        reference: Float[Tensor, "rows vocab"] | None,
    ) -> Float[Tensor, "rows vocab"]:
        """Contrast the model's logits with the amateur's."""
        return self._settings.contrast(logits, self._amateur.logits(step))

    def learn(self, step: Step, tokens: Int[Tensor, " rows"]) -> None:
        """Let the amateur read on."""
        self._amateur.read(step, tokens)
