"""ESamp within a worker: what both model runners share, and all that may fail.

Each step, in the runner's order:

    begin      the scheduler's output: who is new, who is finished
    expecting  the head is about to be called for the rows of this step, and for nothing else:
               prompt log-probabilities and dummy runs call it too, and see nothing of us
    show       it is called: which states does it read (steer)
    fuse       the sampler has truncated: move the survivors
    end        tokens are drawn (learn)

Nothing here raises into the engine: a fault is logged once, counted, and the step goes on plainly.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from esamp.backends.vllm.clock import Clock
from esamp.backends.vllm.controls import open_explorer
from esamp.backends.vllm.parameters import EngineSettings
from esamp.backends.vllm.plan import Plan, lay_out
from esamp.backends.vllm.ranks import Broadcast
from esamp.backends.vllm.roster import Roster
from esamp.backends.vllm.totals import Totals
from esamp.baselines.cooling import cool
from esamp.distiller import MeanDistiller
from esamp.errors import EsampError, UsageError
from esamp.fusion import fit
from esamp.layout import upload
from esamp.method import Step

logger = logging.getLogger("vllm.esamp")
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(kw_only=True)
class Shown:
    """A step between its head and its end."""

    plan: Plan
    step: Step
    moves: Float[Tensor, "rows vocab"] | None = None
    """What fusion after truncation adds; None: no row is fused so."""
    fused: int = 0
    """Rows that have been fused after truncation."""


@dataclass(frozen=True, kw_only=True)
class Reads:
    """What the head is to read."""

    states: Float[Tensor, "rows hidden"]
    pushed: Float[Tensor, "rows hidden"] | None
    """States of the second projection, for rows that are fused on survivors; None: no such row."""


class Pilot:
    """Steers the rows of one engine."""

    def __init__(
        self,
        settings: EngineSettings,
        hidden: int,
        device: torch.device,
        broadcast: Broadcast | None = None,
    ) -> None:
        self.hidden = hidden
        self._device = device
        self._broadcast = broadcast
        self.totals = Totals(device)
        self.profiling = True
        """Until the first real step: memory is measured, and must hold a second projection."""
        self._open(settings)

    def _open(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.clock = Clock(settings.timing, self._device)
        self._cooling = settings.cooling
        self.explorer = open_explorer(
            settings.control,
            settings.esamp,
            settings.max_groups,
            self.hidden,
            self._device,
            self._broadcast,
        )
        self.roster = Roster(settings.esamp, settings.max_groups, self.explorer.bank, self._device)
        self._cached: Plan | None = None
        self._rows: Callable[[], Sequence[str]] | None = None
        self._clear()

    def _clear(self) -> None:
        self._shown: Shown | None = None
        self._at_stake = 0
        """Rows that would be drawn plainly if what is done now failed."""

    def configure(self, settings: EngineSettings) -> None:
        """Change the settings of an engine that runs; requests in flight go on plainly.

        Raises:
            UsageError: The new settings want another layer, which the model does not show.
        """
        old = self.settings
        if settings.esamp.layer != old.esamp.layer:
            raise UsageError(
                f"layer is {settings.esamp.layer}, and this engine shows layer {old.esamp.layer}: "
                "start another one"
            )
        # The old state must be gone before the new one is there: it may be most of the memory. A
        # roster without room stands in, should neither fit.
        nothing = MeanDistiller().open(0, self.hidden, self._device)
        self.roster = Roster(old.esamp, 0, nothing, self._device)
        self.totals.groups_open = 0
        del self.explorer
        failure: Exception | None = None
        try:
            self._open(settings)
        except Exception as error:  # noqa: BLE001  (raised below, without what it holds on to)
            failure = error.with_traceback(None)
        if failure is not None:
            self._open(old)
            raise failure

    def begin(self, output: Any) -> None:
        """Take note of a `SchedulerOutput` before its step."""
        self.profiling = False
        self._clear()
        self._guarded(self._begin, None, output)

    def _begin(self, output: Any) -> None:
        with self.clock.own():
            self._at_stake = len(self.roster.members)
            try:
                self.roster.update(output)
            except Exception:
                # The scheduler tells everything once: a half-read message would leave members that
                # never go. All requests of now go on plainly.
                self.roster.clear()
                self.totals.groups_open = 0
                raise
            self._at_stake = 0
            self.totals.groups_open = self.roster.open_groups

    @contextmanager
    def expecting(self, rows: Callable[[], Sequence[str]]) -> Iterator[None]:
        """Within, the first call of the head is for the rows of the step.

        Args:
            rows: Tells the request of each row; one whose drafts are verified has several.
        """
        self._rows = rows if self.roster.members else None
        try:
            yield
        finally:
            self._rows = None

    @property
    def expects(self) -> bool:
        """Whether the next call of the head is for the rows of a step."""
        return self._rows is not None

    def _make_plan(self, rows: Sequence[str]) -> Plan | None:
        members = self.roster.members
        steered = [
            (row, member)
            for row, request in enumerate(rows)
            if (member := members.get(request)) is not None and member.steered
        ]
        here = [(row, member) for row, member in steered if member.group.slot is not None]
        self.totals.fall_back(len(steered) - len(here), counted=False)
        if not here:
            return None
        key = (self.roster.version, tuple(row for row, _ in here), tuple(rows))
        if self._cached is None or self._cached.key != key:
            self._cached = lay_out(key, len(rows), here, self.roster.open_groups, self._device)
        return self._cached

    def show(
        self, shallow: Float[Tensor, "rows hidden"], deep: Float[Tensor, "rows hidden"]
    ) -> Reads | None:
        """Steer: return what the head is to read; None: the model's own states."""
        return self._guarded(self._show, None, shallow, deep)

    def _show(
        self, shallow: Float[Tensor, "rows hidden"], deep: Float[Tensor, "rows hidden"]
    ) -> Reads | None:
        assert self._rows is not None, "expects was asked"
        rows, self._rows = self._rows(), None
        if len(rows) != len(deep):
            raise EsampError(f"the head is called for {len(deep)} rows, the step has {len(rows)}")
        with self.clock.own():
            plan = self._make_plan(rows)
            if plan is None:
                return None
            self._at_stake = len(plan.beta)
            mine, own = (
                (shallow, deep) if plan.everyone else (shallow[plan.index], deep[plan.index])
            )
            positions, least_drawn = self._positions(plan)
            step = Step(
                shallow=mine.float(),
                deep=own.float(),
                samples=plan.ones,
                positions=positions,
                unfinished=plan.unfinished,
                layout=plan.layout,
                beta=plan.beta,
                least_drawn=least_drawn,
            )
            push = self.explorer.steer(step)
            if self._cooling is not None:
                push = push._replace(states=cool(push.states, step, self._cooling))
            push = fit(push, step, deep.dtype)
            assert push.novelty is not None, "an explorer judges"
            pushed = push.states.to(deep.dtype)
            if not plan.everyone:
                pushed = deep.index_copy(0, plan.index, pushed)
            reads = Reads(states=pushed, pushed=None)
            if plan.survivors is not None:
                states = torch.where(plan.survivors.rows, deep, pushed)
                reads = Reads(states=states, pushed=pushed)
            self.totals.count(push.novelty)
            self._shown = Shown(plan=plan, step=step)
            return reads

    def _positions(self, plan: Plan) -> tuple[Int[Tensor, " steered"], int]:
        """Return how many tokens each row has drawn, as far as anybody asks, and the fewest."""
        limit = self.settings.esamp.learn_tokens
        if self._cooling is None and limit is None:
            return plan.ones, 1  # there is one: that is all an explorer asks
        drawn = [member.drawn for member in plan.members]
        least = min(drawn)
        mixed = limit is not None and least <= limit < max(drawn)
        if self._cooling is None and not mixed:
            return plan.ones, least  # all rows are learnt from, or none
        return upload(drawn, torch.long, self._device), least

    def keep(
        self,
        project: Callable[[], Float[Tensor, "rows vocab"]],
        reference: Float[Tensor, "rows vocab"],
    ) -> None:
        """Keep what fusion on survivors adds: the difference of the two projections.

        Args:
            project: Gives the logits of `Reads.pushed`.
            reference: Logits of `Reads.states`.
        """
        self._guarded(self._keep, None, project, reference)

    def _keep(
        self,
        project: Callable[[], Float[Tensor, "rows vocab"]],
        reference: Float[Tensor, "rows vocab"],
    ) -> None:
        assert self._shown is not None, "a step was shown"
        assert self._shown.plan.survivors is not None, "the second projection is for survivors"
        self._at_stake = self._shown.plan.survivors.count
        with self.clock.own():
            self._shown.moves = project().float() - reference.float()

    @property
    def fuses(self) -> bool:
        """Whether rows of this step are fused after truncation."""
        return self._shown is not None and self._shown.moves is not None

    def fuse(
        self, scores: Float[Tensor, "some vocab"], scaled: bool
    ) -> Float[Tensor, "some vocab"]:
        """Move the survivors of truncation to the fused logits, in rows that are fused so.

        Args:
            scores: Processed and truncated reference logits of the step's rows, or of the next ones
                of them; −inf: cut away.
            scaled: Whether they are divided by the temperature already.
        """
        return self._guarded(self._fuse, scores, scores, scaled)

    def _fuse(
        self, scores: Float[Tensor, "some vocab"], scaled: bool
    ) -> Float[Tensor, "some vocab"]:
        shown = self._shown
        assert shown is not None, "fuses was asked"
        survivors, moves = shown.plan.survivors, shown.moves
        assert survivors is not None, "there are moves for survivors only"
        assert moves is not None, "fuses was asked"
        with self.clock.own():
            mine = slice(shown.fused, shown.fused + len(scores))
            shown.fused = mine.stop
            move = moves[mine] / survivors.temperature[mine] if scaled else moves[mine]
            moved = scores + move
            # Not finite where truncation cut, and where a projection overflowed.
            return torch.where(survivors.rows[mine] & moved.isfinite(), moved, scores)

    def end(self, accepted: Bool[Tensor, " rows"] | None = None) -> None:
        """Teach the distillers what was shown in this step, and end it.

        Args:
            accepted: Rows whose draw counts, where drafts are verified; None: all.
        """
        if self._shown is not None:
            self._guarded(self._learn, None, self._shown, accepted)
        self._clear()

    def _learn(self, shown: Shown, accepted: Bool[Tensor, " rows"] | None) -> None:
        self._at_stake = 0  # tokens are drawn
        step = shown.step
        with self.clock.own():
            if accepted is not None:
                step = replace(step, unfinished=accepted[shown.plan.index])
            try:
                self.explorer.learn(step, step.samples)
            except Exception:
                # Half a step may be in the state: what was learnt is not to be trusted.
                self._forget()
                raise

    def stats(self) -> dict[str, Any]:
        """Return totals, settings and memory, for `collective_rpc("esamp_stats")`."""
        return (
            self.totals.read()
            | self.clock.read()
            | {
                "settings": self.settings.describe(),
                "state_bytes_per_group": self.settings.esamp.distiller.state_bytes(self.hidden),
                "requests_open": len(self.roster.members),
            }
        )

    def fault(self, error: BaseException) -> None:
        """Count what goes on plainly, and say why, once a kind."""
        self.totals.fall_back(self._at_stake, counted=self._shown is not None)
        self._at_stake = 0
        kind = f"{type(error).__name__}: {error}"
        if self.totals.note_fault(kind):
            logger.error(
                "esamp: this step goes on plainly, and so will others of its kind (%s)",
                kind,
                exc_info=error,
            )

    def _forget(self) -> None:
        slots = list(range(self.roster.open_groups))
        self.explorer.bank.reset(upload(slots, torch.long, self._device))

    def _guarded(self, work: Callable[P, T], otherwise: T, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return work(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  (the engine serves others too, and must live)
            self.fault(error)
            return otherwise
