"""What a run keeps of what was generated: one `GroupRecord` for each arm, seed and item."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

from esamp.generation import Completion, FinishReason


class Key(NamedTuple):
    """What a record is about."""

    arm: str
    seed: int
    item: str


@dataclass(frozen=True, kw_only=True)
class SampleRecord:
    """One sample."""

    text: str
    finish_reason: FinishReason
    ends: Sequence[int]
    """Where each token's text ends within `text`, in characters; as many as there are tokens."""
    logprob: float
    """Sum of the tokens' log-probabilities under the distributions that they were drawn from."""
    reference_logprob: float | None = None
    """The same under the unsteered distributions; None without diagnostics."""
    novelty: Sequence[float | None] | None = None
    """‖residual‖/‖deep‖ of each token; None for a token without one."""

    @classmethod
    def of(cls, completion: Completion, pieces: Sequence[str]) -> "SampleRecord":
        """Return the record of a completion, given the text that each of its tokens adds."""
        ends = list(accumulate(map(len, pieces)))
        if ends and ends[-1] > len(completion.text):
            ends = [min(end, len(completion.text)) for end in ends]
        novelty = completion.novelty
        reference = completion.reference_logprobs
        return cls(
            text=completion.text,
            finish_reason=completion.finish_reason,
            ends=ends,
            logprob=sum(completion.logprobs, 0.0),
            reference_logprob=None if reference is None else sum(reference, 0.0),
            novelty=None
            if novelty is None
            else [None if each is None else round(each, 4) for each in novelty],
        )

    @property
    def tokens(self) -> int:
        """How many tokens it has."""
        return len(self.ends)

    def prefix(self, tokens: int) -> str:
        """Return the text of the first tokens."""
        return self.text if tokens >= len(self.ends) else self.text[: self.ends[tokens - 1]]


@dataclass(frozen=True, kw_only=True)
class GroupRecord:
    """All samples of one arm, seed and item."""

    arm: str
    seed: int
    item: str
    batch: int
    """Number of the batch within its arm and seed; a batch is generated and written whole."""
    samples: Sequence[SampleRecord]
    distiller_error: Sequence[float | None]
    """Mean ‖residual‖²/‖deep‖² of each step of the batch."""

    @property
    def key(self) -> Key:
        """What this record is about."""
        return Key(self.arm, self.seed, self.item)

    def to_json(self) -> dict[str, Any]:
        """Return JSON data, which shares the lists of this record."""
        return {**vars(self), "samples": [vars(sample) for sample in self.samples]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "GroupRecord":
        """Read what `to_json` gave."""
        samples = [SampleRecord(**each) for each in data["samples"]]
        return cls(**{**data, "samples": samples})
