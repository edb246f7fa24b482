"""What a decoding method is, and what it sees of a model: the contract of every method and backend.

One decode step, always in this order:

1. show: the model shows the states of the unfinished rows (`Step`)
2. steer: the method says which states the head reads, and may reweight the logits
3. draw: one token per row
4. learn: the method learns from what was shown and drawn; it has judged the state before
5. advance: the model reads the tokens; finished rows leave

A `Method` is a frozen description that can be logged and compared. `start` makes the state of one
call, a `Steering`. To write a new method, subclass `Steering` and override what differs from plain
decoding; `docs/decisions/0001-protocols.md` walks through each baseline.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from esamp.layout import Layout

Scope = Literal["prompt", "shared", "sample"]
"""Who shares a group: one prompt's samples, all rows of a call, or nobody."""

Truncation = Literal["reference", "fused"]
"""Which logits top-k, top-p and min-p judge: the model's own, or those after steering."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the model shows in one decode step."""

    shallow: Float[Tensor, "rows hidden"]
    """State after block `Method.layer`, fp32."""
    deep: Float[Tensor, "rows hidden"]
    """State that the LM head reads, fp32."""
    samples: Int[Tensor, " rows"]
    """Number of each row's sample within the call; it survives when other rows leave."""
    positions: Int[Tensor, " rows"]
    """Tokens drawn so far for each row; 0 is the first token, which follows the prompt."""
    unfinished: Bool[Tensor, " rows"]
    """Rows that are still being sampled; the others are padding."""
    layout: Layout
    """Group of each row."""
    beta: Float[Tensor, " rows"] | None = None
    """Strength of each row where requests differ; None: the method's own."""
    least_drawn: int = 0
    """What the host knows of `positions`: every row has drawn that many tokens, or more."""


class Push(NamedTuple):
    """What the head reads instead of `Step.deep`."""

    states: Float[Tensor, "rows hidden"]
    """Rows that are not steered hold their own deep state, unchanged."""
    novelty: Float[Tensor, " rows"] | None
    """‖residual‖/‖deep‖; NaN where a row cannot be judged; None if the method has none."""


Projection = Callable[[Float[Tensor, "rows hidden"]], Float[Tensor, "rows vocab"]]
"""From deep states to fp32 logits; gradients pass through it to the states."""

Norm = Callable[[Float[Tensor, "rows hidden"]], Float[Tensor, "rows hidden"]]
"""From the state after a block to what the head would read if that block were the last."""


@runtime_checkable
class Follower(Protocol):
    """Another language model that reads what the samples of a call read, with its own memory."""

    def logits(self, step: Step) -> Float[Tensor, "rows vocab"]:
        """Return its logits for the next token of each row, fp32; −inf: it lacks the token."""

    def read(self, step: Step, tokens: Int[Tensor, " rows"]) -> None:
        """Read the tokens that were drawn in this step."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """What a method may know when a call starts."""

    hidden: int
    """Width of shallow and deep states."""
    prompts: Sequence[Sequence[int]]
    """Prompt of each sample, as token ids without padding."""
    groups: Sequence[int]
    """Group of each sample."""
    seed: int
    """Seed of this call, for a method that draws."""
    device: torch.device
    """Where states and logits are."""
    temperature: float = 1.0
    """What the engine divides logits by after `reweight`."""
    head: Projection | None = None
    """The model's frozen head; None where its logits are more than a head, a scale and a cap."""
    norm: Norm | None = None
    """The model's final norm; None where it was not found."""
    follow: Callable[[str], Follower] | None = None
    """Opens another model by its name; None where token ids are not all there is of a prompt."""

    @property
    def capacity(self) -> int:
        """How many groups there are."""
        return max(self.groups, default=-1) + 1


class Steering:
    """State of a method during one call. As it stands: plain decoding."""

    def steer(self, step: Step) -> Push | None:
        """Return the states that the head is to read; None for the model's own."""
        return None

    def reweight(
        self,
        step: Step,
        logits: Float[Tensor, "rows vocab"],
        reference: Float[Tensor, "rows vocab"] | None,
    ) -> Float[Tensor, "rows vocab"]:
        """Return the logits that processors, temperature and truncation are to see.

        It is not called in greedy decoding, where every method is plain.

        Args:
            step: What the model showed.
            logits: Logits of the states that `steer` chose; those of `step.deep` where fusion comes
                after processors and truncation.
            reference: Logits of `step.deep`; None unless `Method.needs_reference`.
        """
        return logits

    def settle(
        self,
        step: Step,
        scores: Float[Tensor, "rows vocab"],
        reference: Float[Tensor, "rows vocab"],
    ) -> Float[Tensor, "rows vocab"]:
        """Return the scores to draw from, where fusion comes after processors and truncation.

        Elsewhere it is not called: `reweight` has seen the fused logits.

        Args:
            step: What the model showed.
            scores: Fused logits of the survivors, after processors and temperature; −inf: cut away.
            reference: The same without steering.
        """
        return scores

    def learn(self, step: Step, tokens: Int[Tensor, " rows"]) -> None:
        """Learn from a step and the tokens drawn in it; rows that are finished hold any token."""


@runtime_checkable
class Method(Protocol):
    """A decoding method: frozen settings, and how to start."""

    @property
    def name(self) -> str:
        """Name in tables and on the command line."""

    @property
    def scope(self) -> Scope:
        """Who shares a group."""

    @property
    def truncation(self) -> Truncation:
        """Which logits truncation judges."""

    @property
    def layer(self) -> int:
        """Block whose output is shown as shallow; 1 is the first."""

    @property
    def needs_reference(self) -> bool:
        """Whether `reweight` wants the reference logits, a second projection."""

    @property
    def inert(self) -> bool:
        """Whether these settings leave plain decoding as it is."""

    def start(self, call: Call) -> Steering:
        """Return fresh state for one call."""


@dataclass(frozen=True, kw_only=True)
class Vanilla:
    """Plain sampling."""

    name: str = "vanilla"
    scope: Scope = "prompt"
    truncation: Truncation = "reference"
    layer: int = 1
    needs_reference: bool = False
    inert: bool = True

    def start(self, call: Call) -> Steering:
        """Return the steering that changes nothing."""
        return Steering()


class Wrapper:
    """A method in front of another: it shares all settings that loops and backends ask for."""

    @property
    def within(self) -> Method:
        """The method within."""
        raise NotImplementedError

    @property
    def scope(self) -> Scope:
        """Scope of the method within."""
        return self.within.scope

    @property
    def truncation(self) -> Truncation:
        """Truncation of the method within."""
        return self.within.truncation

    @property
    def layer(self) -> int:
        """Layer of the method within."""
        return self.within.layer

    @property
    def needs_reference(self) -> bool:
        """As the method within."""
        return self.within.needs_reference

    @property
    def inert(self) -> bool:
        """As the method within."""
        return self.within.inert
