"""From logits to the scores that are drawn from: processors, temperature and truncation.

Everything that `generate` was asked for is applied once, and it sees all rows. What it sees are the
reference logits (`truncation="reference"`, the paper's reading) or the fused ones (`"fused"`).
"""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
)

from esamp.backends.transformers.session import Session, Shown
from esamp.backends.transformers.states import Reads
from esamp.fusion import fuse_survivors
from esamp.method import Method, Push, Steering

COMMUTE = (
    TemperatureLogitsWarper,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    SuppressTokensLogitsProcessor,
)
"""Processors that scale, or forbid by token and length: before or after fusion is the same."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """How one call turns logits into scores."""

    processors: LogitsProcessorList
    after_processors: bool
    """Whether fusion comes after the processors, which costs a second projection."""
    steers: bool
    """Whether any row may be steered; if not, the head reads what it always reads."""
    keep_reference: bool
    """Whether the reference logits are wanted for other reasons."""
    temperature: float

    @classmethod
    def of(
        cls,
        method: Method,
        processors: LogitsProcessorList,
        config: GenerationConfig,
        *,
        diagnostics: bool,
        betas_given: bool,
    ) -> "Judge":
        """Decide once, when the call starts."""
        temperature = 1.0
        for each in processors:
            if isinstance(each, TemperatureLogitsWarper):
                temperature *= each.temperature
        truncates = not all(isinstance(each, COMMUTE) for each in processors)
        wants_logits = bool(config.return_dict_in_generate and config.output_logits)
        return cls(
            processors=processors,
            after_processors=truncates and method.truncation == "reference",
            # Greedy rows are plain: pushing along the surprise has no meaning for an argmax.
            steers=bool(config.do_sample) and (betas_given or not method.inert),
            keep_reference=diagnostics or wants_logits or method.needs_reference,
            temperature=temperature,
        )

    def read(self, push: Push | None) -> Reads:
        """Return what the head is to read."""
        if push is None or not self.steers:
            return Reads(None, reference=False)
        return Reads(push.states, reference=self.after_processors or self.keep_reference)

    def scores(
        self,
        session: Session,
        steering: Steering,
        input_ids: Int[Tensor, "rows tokens"],
        shown: Shown,
    ) -> tuple[Float[Tensor, "active vocab"], Float[Tensor, "active vocab"] | None]:
        """Return the scores to draw from; and the processed reference, if fusion comes after it."""
        if self.after_processors and shown.reference is not None:
            processed = self._process(session, input_ids, shown.reference)
            fused = fuse_survivors(processed, shown.reference, shown.logits, self.temperature)
            return fused, processed
        logits = shown.logits
        if self.steers:
            logits = steering.reweight(shown.step, logits, shown.reference)
        return self._process(session, input_ids, logits), None

    def plain(self, shown: Shown) -> Float[Tensor, "active vocab"]:
        """Return the reference at the call's temperature, without truncation."""
        reference = shown.logits if shown.reference is None else shown.reference
        return reference / self.temperature

    def _process(
        self,
        session: Session,
        input_ids: Int[Tensor, "rows tokens"],
        logits: Float[Tensor, "active vocab"],
    ) -> Float[Tensor, "active vocab"]:
        if not self.processors:
            return logits
        return session.of_active(self.processors(input_ids, session.of_all(logits, 0.0)))
