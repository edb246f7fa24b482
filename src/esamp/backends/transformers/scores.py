"""From logits to the scores that are drawn from: processors, temperature and truncation.

Everything that `generate` was asked for is applied once, and it sees all rows. What it sees are the
reference logits (`truncation="reference"`, the paper's reading) or the fused ones (`"fused"`).
"""

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.logits_process import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitNormalization,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from esamp.backends.transformers.session import Session, Shown
from esamp.backends.transformers.states import HeadRows, Reads
from esamp.fusion import fuse_survivors, move_survivors
from esamp.method import Method, Push, Steering

COMMUTE = (
    TemperatureLogitsWarper,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    SuppressTokensLogitsProcessor,
)
"""Processors that scale, or forbid by token and length: before or after fusion is the same."""

ONLY_CUT = (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitNormalization,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)
"""Processors that bring no token back."""

ROOM_FOR_TIES = 4
"""Top-k keeps all tokens that are level with the last: so many more, or k more, are looked at."""


def find_temperature(processors: LogitsProcessorList) -> float:
    """Return what the processors divide logits by."""
    temperature = 1.0
    for each in processors:
        if isinstance(each, TemperatureLogitsWarper):
            temperature *= each.temperature
    return temperature


def find_most_survivors(processors: LogitsProcessorList) -> int | None:
    """Return how many tokens of a row survive at most, ties aside; None: any number."""
    bounds: list[int] = []
    for each in processors:
        if isinstance(each, TopKLogitsWarper):
            bounds.append(each.top_k)
        elif not isinstance(each, ONLY_CUT):
            bounds.clear()
    return min(bounds, default=None)


class Few(NamedTuple):
    """Tokens of a row that are fused from as many rows of the head, without a second projection."""

    tokens: int
    head_rows: HeadRows

    @classmethod
    def of(
        cls, processors: LogitsProcessorList, head_rows: HeadRows | None, rows: int
    ) -> "Few | None":
        """Return how many; None where survivors may be many, or the head has no rows to read."""
        most = find_most_survivors(processors)
        if most is None or head_rows is None:
            return None
        # Beyond that, single rows of the head are more to read than the whole.
        tokens = most + max(most, ROOM_FOR_TIES)
        return cls(tokens, head_rows) if rows * tokens <= head_rows.vocab else None


class Scored(NamedTuple):
    """What one step draws from, and what it is compared with."""

    scores: Float[Tensor, "active vocab"]
    reference: Float[Tensor, "active vocab"] | None
    """The same without steering, for diagnostics; None unless they were asked for."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """How one call turns logits into scores."""

    processors: LogitsProcessorList
    commutes: bool
    """Whether it makes no difference if the processors come before or after fusion."""
    after_processors: bool
    """Whether fusion comes after the processors."""
    few: Few | None
    """What is fused then; None: all tokens, which costs a second projection."""
    steers: bool
    """Whether any row may be steered; if not, the head reads what it always reads."""
    needs_reference: bool
    """Whether the method wants the reference logits."""
    keep_reference: bool
    """Whether they are wanted at all, beside fusion."""
    diagnostics: bool
    temperature: float
    foreign: bool
    """Whether a processor is not of Transformers, whose own do not write into what is given."""

    @classmethod
    def of(
        cls,
        method: Method,
        processors: LogitsProcessorList,
        config: GenerationConfig,
        few: Few | None,
        *,
        diagnostics: bool,
        betas_given: bool,
    ) -> "Judge":
        """Decide once, when the call starts."""
        commutes = all(isinstance(each, COMMUTE) for each in processors)
        wants_logits = bool(config.return_dict_in_generate and config.output_logits)
        return cls(
            processors=processors,
            commutes=commutes,
            after_processors=not commutes and method.truncation == "reference",
            few=few,
            # Greedy rows are plain: pushing along the surprise has no meaning for an argmax.
            steers=bool(config.do_sample) and (betas_given or not method.inert),
            needs_reference=method.needs_reference,
            keep_reference=diagnostics or wants_logits or method.needs_reference,
            diagnostics=diagnostics,
            temperature=find_temperature(processors),
            foreign=any(
                not type(each).__module__.startswith("transformers.") for each in processors
            ),
        )

    def read(self, push: Push | None) -> Reads:
        """Return what the head is to read."""
        if push is None or not self.steers:
            return Reads(None, reference=False)
        if self.after_processors and self.few is not None:
            return Reads(None, reference=False)  # its own state; few tokens are fused later
        return Reads(push.states, reference=self.after_processors or self.keep_reference)

    def scores(
        self,
        session: Session,
        steering: Steering,
        input_ids: Int[Tensor, "rows tokens"],
        shown: Shown,
    ) -> Scored:
        """Return the scores to draw from."""
        moved = shown.reference is not None
        reference = shown.logits if shown.reference is None else shown.reference
        fuse_after = self.steers and shown.push is not None and self.after_processors
        seen = reference if fuse_after else shown.logits
        if self.steers:
            given = reference if self.needs_reference else None
            seen = steering.reweight(shown.step, seen, given)
        processed = self._process(session, input_ids, seen)
        if fuse_after:
            fused = self._fuse(processed, shown)
            return Scored(steering.settle(shown.step, fused, processed), processed)
        if not self.diagnostics:
            return Scored(processed, None)
        if not moved and seen is shown.logits:
            return Scored(processed, processed)
        # Processors may keep state, so those that matter run once, on what is drawn from.
        plain = reference / self.temperature
        return Scored(
            processed, self._process(session, input_ids, reference) if self.commutes else plain
        )

    def _fuse(
        self, processed: Float[Tensor, "active vocab"], shown: Shown
    ) -> Float[Tensor, "active vocab"]:
        if shown.reference is not None:
            return fuse_survivors(processed, shown.reference, shown.logits, self.temperature)
        assert self.few is not None, "without them there is a second projection"
        assert shown.push is not None, "there is something to fuse"
        tokens = processed.topk(self.few.tokens, sorted=False).indices
        moves = self.few.head_rows.change(shown.push.states - shown.step.deep, tokens)
        return move_survivors(processed, tokens, moves.to(processed.device), self.temperature)

    def _process(
        self,
        session: Session,
        input_ids: Int[Tensor, "rows tokens"],
        logits: Float[Tensor, "active vocab"],
    ) -> Float[Tensor, "active vocab"]:
        if not self.processors:
            return logits
        given = session.of_all(logits, 0.0)
        # The reference is looked at again after them.
        given = given.clone() if self.foreign else given
        return session.of_active(self.processors(input_ids, given))
