"""A toy runner that shows a pilot its steps, in the order of the real ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from esamp.backends.vllm.parameters import EngineSettings
from esamp.backends.vllm.pilot import Pilot, Reads
from esamp.explorer import ESamp, Explorer
from esamp.layout import Layout
from esamp.method import Step
from esamp.recursive import RecursiveDistiller
from steps import HIDDEN, no_tokens, random_states
from toy import ToyModel

from .outputs import Scheduler

DISTILLER = RecursiveDistiller(features=16, ridge=10.0)
KEPT = 4
"""Tokens that survive the toy runner's truncation, in every row."""

head = ToyModel().head


@dataclass(frozen=True)
class Turn:
    """What was seen in one step."""

    rows: Sequence[str]
    shallow: Tensor
    deep: Tensor
    reads: Reads | None
    logits: Tensor
    """What the head gave."""
    scores: Tensor
    """What tokens are drawn from."""

    @property
    def states(self) -> Tensor:
        """What the head read."""
        return self.deep if self.reads is None else self.reads.states

    @property
    def pushed(self) -> list[str]:
        """Requests with a row whose state is not the model's own."""
        moved = (self.states != self.deep).any(dim=-1).tolist()
        return [name for name, pushed in zip(self.rows, moved, strict=True) if pushed]


def open_pilot(
    max_groups: int = 4,
    broadcast: Any = None,
    distiller: Any = DISTILLER,
    cooling_final: float = 1.0,
    **esamp: Any,
) -> Pilot:
    """A pilot on the CPU, of an engine whose requests must ask."""
    settings = EngineSettings(
        esamp=ESamp(**{"beta": 0.0, "distiller": distiller} | esamp),
        max_groups=max_groups,
        cooling_final=cooling_final,
        cooling_over=4,
    )
    return Pilot(settings, HIDDEN, torch.device("cpu"), broadcast)


def states(rows: int, seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Shallow and deep of a step."""
    return (
        random_states(rows, seed=2 * seed).to(dtype),
        random_states(rows, seed=2 * seed + 1).to(dtype),
    )


def truncate(logits: Tensor) -> Tensor:
    """Keep the best tokens of each row."""
    least = logits.topk(KEPT, dim=-1).values[:, -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def drive(
    pilot: Pilot,
    output: Any,
    shown: tuple[Tensor, Tensor],
    rows: Sequence[str] | None = None,
    accepted: Tensor | None = None,
    project: Any = head,
) -> Turn:
    """Take one step.

    Args:
        pilot: The pilot.
        output: What the scheduler says.
        shown: Shallow and deep of each row.
        rows: Request of each row; None: those that are scheduled, in order.
        accepted: Rows whose draws count; None: all.
        project: The head, where it reads the states of the second projection.
    """
    shallow, deep = shown
    rows = list(output.num_scheduled_tokens) if rows is None else rows
    pilot.begin(output)
    with pilot.expecting(lambda: rows):
        reads = pilot.show(shallow, deep) if pilot.expects else None
        logits = head((deep if reads is None else reads.states).float())
        if reads is not None and reads.pushed is not None:
            pilot.keep(lambda: project(reads.pushed.float()), logits)
    scores = truncate(logits)
    if pilot.fuses:
        scores = pilot.fuse(scores, scaled=False)
    pilot.end(accepted)
    return Turn(rows, shallow, deep, reads, logits, scores)


def bits(values: Tensor) -> Tensor:
    """The same bits as numbers, under which NaN equals itself and −0 differs from 0."""
    return values.view(torch.int16 if values.dtype.itemsize == 2 else torch.int32)


def warm_up(pilot: Pilot, *requests: Any, steps: int = 4) -> Scheduler:
    """Let requests come and draw some tokens, so that predictions are no longer trivial."""
    scheduler = Scheduler()
    for seed in range(steps):
        output = scheduler.step(*(requests if seed == 0 else ()))
        drive(pilot, output, states(len(output.num_scheduled_tokens), 100 + seed))
    return scheduler


class Core:
    """The core's explorer beside a pilot: groups are told, not found, and never change places."""

    def __init__(self, distiller=DISTILLER, groups=4):
        self._explorer = Explorer(ESamp(distiller=distiller), groups, HIDDEN, "cpu")
        self._groups = groups

    def step(self, shallow, deep, members, taught=None):
        """Steer and learn; `members` gives group and β of each row that is steered."""
        at = torch.tensor(list(members), dtype=torch.long)
        everyone = torch.ones(len(at), dtype=torch.bool)
        step = Step(
            shallow=shallow[at].float(),
            deep=deep[at].float(),
            samples=at,
            positions=everyone.long(),
            unfinished=everyone,
            layout=Layout.of([group for group, _ in members.values()], self._groups),
            beta=torch.tensor([beta for _, beta in members.values()]),
        )
        pushed = deep.clone()
        pushed[at] = self._explorer.steer(step).states.to(deep.dtype)
        self._explorer.learn(
            step if taught is None else replace(step, unfinished=taught), no_tokens(step)
        )
        return pushed
