"""All that evaluation knows of a backend: request, completions, and the protocol `Generator`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from esamp.errors import UsageError
from esamp.method import Method

FinishReason = Literal["stop", "length", "nonfinite"]
"""Why a sample ended: an end token or stopping rule, its length, or scores that are not finite."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn, in the words of every engine."""

    temperature: float = 1.0
    """0 is greedy, which is never steered."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps all."""
    min_p: float = 0.0
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UsageError(f"temperature is {self.temperature}: give a finite number, 0 or above")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top-p is {self.top_p}: give a number above 0 and at most 1 (1: off)")
        if self.top_k < 0:
            raise UsageError(f"top-k is {self.top_k}: give 0 (off) or a positive number of tokens")
        if not 0 <= self.min_p <= 1:
            raise UsageError(f"min-p is {self.min_p}: give a number from 0 (off) to 1")
        if self.max_new_tokens < 1:
            raise UsageError(f"max-new-tokens is {self.max_new_tokens}: give 1 or more")


@dataclass(frozen=True, kw_only=True)
class Request:
    """K samples each of one or more prompts, decoded together."""

    prompts: Sequence[str]
    samples: int = 8
    sampling: Sampling = Sampling()
    seed: int | None = None
    """None draws one from torch's global generator, so `torch.manual_seed` works."""
    diagnostics: bool = False
    """Also give what needs the reference logits, at the price of a second projection."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UsageError(f"samples is {self.samples}: give 1 or more")
        if not self.prompts:
            raise UsageError("there is no prompt: give at least one")
        for number, prompt in enumerate(self.prompts):
            if not prompt.strip():
                raise UsageError(f"prompt {number + 1} is empty: give some text")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise UsageError(f"seed is {self.seed}: give a whole number from 0 to 2^63 - 1")


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One sample."""

    text: str
    token_ids: Sequence[int]
    finish_reason: FinishReason
    logprobs: Sequence[float]
    """Log-probability of each token under the distribution that it was really drawn from."""
    reference_logprobs: Sequence[float] | None = None
    """The same under the unsteered distribution; None without diagnostics."""
    novelty: Sequence[float | None] | None = None
    """‖residual‖/‖deep‖ of each token; None for the first, and where a state is not finite."""


@dataclass(frozen=True, kw_only=True)
class Stats:
    """What one call cost and how the distiller did."""

    tokens: int
    seconds: float
    distiller_error: Sequence[float | None]
    """Mean ‖residual‖²/‖deep‖² over the rows of each steered step; None where no row had one."""
    nonfinite_rows: int
    """Row-steps that were sampled plainly, or ended, because a state was not finite."""
    kl: float | None = None
    """Mean KL(fused‖reference) over steered tokens, in nats; None without diagnostics."""
    entropy: float | None = None
    reference_entropy: float | None = None

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all samples together, per second."""
        return self.tokens / self.seconds


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What a generator returns: the completions of each prompt, in the request's order."""

    completions: Sequence[Sequence[Completion]]
    stats: Stats


Progress = Callable[[float], None]
"""Told now and then which share of the tokens is done, from 0 to 1."""


@runtime_checkable
class Generator(Protocol):
    """Turns requests into completions with any method."""

    def generate(
        self, request: Request, method: Method, progress: Progress | None = None
    ) -> Generation:
        """Return `request.samples` completions of every prompt.

        Raises:
            UsageError: The request cannot be served, for example a prompt longer than the context.
            ModelError: The model cannot be steered.
        """


@runtime_checkable
class SpeakingGenerator(Generator, Protocol):
    """A generator that can also show samples token by token."""

    def pieces(self, token_ids: Sequence[int]) -> list[str]:
        """Return the text that each token adds."""
