"""Steps replayed as CUDA graphs, with learning beside the model. Source: ours.

A step is some hundred small kernels, so on a GPU most of its cost is launching them one by one.
Here each shape of step is recorded twice, once what steers and once what learns; from then on a
step is a few copies and two launches. What learns runs on a stream of its own, beside drawing and
the model's next pass, and whoever needs the distillers waits for it there, on the device.

The kernels are those that would run anyway, so every number is the same (`ESamp.capture`).
"""

import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from esamp.distiller import Bank
from esamp.layout import Layout
from esamp.method import Push, Steering, Step

T = TypeVar("T")
Replay = Callable[[], None]

SETTLED = 2
"""Steps of one layout that run plainly first: libraries make their handles and workspaces then, and
a shape that does not last is not worth recording."""
MOST = 8
"""Shapes kept; each holds its inputs, three states a row."""


@runtime_checkable
class Device(Protocol):
    """What records and replays."""

    def record(self, work: Callable[[], T]) -> tuple[T, Replay]:
        """Record what work does, without doing it; return where its results go, and a replay."""

    def beside(self, replay: Replay) -> None:
        """Replay after all that was launched so far, while the caller goes on."""

    def wait(self) -> None:
        """Let all that is launched from now on come after what runs beside."""


class Cuda:
    """Graphs and streams of a GPU; no method waits on the host."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._recording, self._side = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], T]) -> tuple[T, Replay]:
        """Record on a stream of its own; other threads of the process may go on with theirs."""
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        self._recording.wait_stream(current)
        with torch.cuda.stream(self._recording):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                result = work()
            finally:
                graph.capture_end()
        current.wait_stream(self._recording)

        def replay() -> None:
            # A graph is launched on the current device, which may be another one.
            with torch.cuda.device(self._device):
                graph.replay()

        return result, replay

    def beside(self, replay: Replay) -> None:
        """Replay on the side stream."""
        self._side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._side):
            replay()

    def wait(self) -> None:
        """Let the current stream wait for the side stream."""
        torch.cuda.current_stream(self._device).wait_stream(self._side)


@runtime_checkable
class Learner(Protocol):
    """What can be captured: it draws nothing, and keeps its state where it is."""

    bank: Bank

    def steer(self, step: Step) -> Push:
        """Push each row; reads the bank and does not change it."""

    def learn(self, step: Step, tokens: Int[Tensor, " rows"]) -> None:
        """Teach the bank; looks at no token."""

    def learns(self, step: Step) -> bool:
        """Return whether learning may change anything; the device is not asked."""


def capture(learner: Learner, device: torch.device | str) -> "Captured | None":
    """Return a steering that replays another's steps; None where the device has no graphs."""
    device = torch.device(device)
    return Captured(learner, Cuda(device)) if device.type == "cuda" else None


@dataclass(frozen=True, kw_only=True)
class _Recording:
    """A shape of step: inputs and results at fixed places, and what happens between them."""

    step: Step
    push: Push
    steer: Replay
    learn: Replay

    def take(self, step: Step, moved: bool) -> None:
        """Copy a step's numbers in; of its layout only if rows have moved."""
        _copy(step, self.step)
        if moved:
            _copy(step.layout, self.step.layout)


class _Beside:
    """What was last learnt beside the model, until somebody has waited for it."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._open = False

    def run(self, replay: Replay) -> None:
        self._device.beside(replay)
        self._open = True

    def wait(self) -> None:
        if self._open:
            self._device.wait()
            self._open = False


class Captured(Steering):
    """Another steering's steps, replayed. What `steer` returns lasts until the next `steer`."""

    def __init__(self, learner: Learner, device: Device) -> None:
        self._learner = learner
        self._device = device
        self._recordings: dict[tuple[object, ...], _Recording] = {}
        self._now: _Recording | None = None
        self._layout: Layout | None = None
        self._settled = 0
        self._works = True
        self._beside = _Beside(device)
        self.bank: Bank = _AwaitedBank(learner.bank, self._beside)
        """The bank, for whoever opens and closes groups."""
        # The bank's memory goes to others when this goes, so not before the last learning is done.
        weakref.finalize(self, self._beside.wait).atexit = False

    def steer(self, step: Step) -> Push:
        """Steer as the learner does."""
        self._beside.wait()
        moved, self._layout = step.layout is not self._layout, step.layout
        self._settled = 0 if moved else self._settled + 1
        key = _key(step)
        fresh = key not in self._recordings
        if fresh and self._works and self._settled >= SETTLED:
            self._record(key, step)
        last, self._now = self._now, self._recordings.get(key)
        if self._now is None:
            return self._learner.steer(step)
        self._now.take(step, moved or self._now is not last)
        self._now.steer()
        return self._now.push

    def learn(self, step: Step, tokens: Int[Tensor, " rows"]) -> None:
        """Learn as the learner does, beside what is launched from now on."""
        if self._now is None:
            self._learner.learn(step, tokens)
            return
        if not self._learner.learns(step):
            return
        # Between the two a draft may have been refused, and its row is not learnt from.
        self._now.step.unfinished.copy_(step.unfinished)
        self._beside.run(self._now.learn)

    def _record(self, key: tuple[object, ...], step: Step) -> None:
        # What is recorded learns, though this step may have nothing to learn from.
        step = replace(_clone(step), layout=_clone(step.layout), least_drawn=0)
        learner = self._learner
        try:
            push, steer = self._device.record(lambda: learner.steer(step))
            _, learn = self._device.record(lambda: learner.learn(step, step.samples))
        except RuntimeError as error:
            self._works = False
            warnings.warn(
                f"esamp: a step cannot be recorded as a CUDA graph, so none will be ({error}); "
                "ESamp(capture=False) does not try",
                RuntimeWarning,
                stacklevel=2,
            )
            return
        if len(self._recordings) == MOST:
            del self._recordings[next(iter(self._recordings))]
        self._recordings[key] = _Recording(step=step, push=push, steer=steer, learn=learn)


class _AwaitedBank:
    """A bank that is used only after what is learnt beside has been learnt."""

    def __init__(self, bank: Bank, beside: _Beside) -> None:
        self._bank = bank
        self._beside = beside

    def predict(
        self, shallow: Float[Tensor, "rows hidden"], layout: Layout
    ) -> Float[Tensor, "rows hidden"]:
        """Wait and predict."""
        self._beside.wait()
        return self._bank.predict(shallow, layout)

    def learn(
        self,
        shallow: Float[Tensor, "rows hidden"],
        deep: Float[Tensor, "rows hidden"],
        taught: Bool[Tensor, " rows"],
        layout: Layout,
    ) -> None:
        """Wait and learn."""
        self._beside.wait()
        self._bank.learn(shallow, deep, taught, layout)

    def reset(self, groups: Int[Tensor, " some"]) -> None:
        """Wait and reset."""
        self._beside.wait()
        self._bank.reset(groups)

    def move(self, source: int, target: int) -> None:
        """Wait and move."""
        self._beside.wait()
        self._bank.move(source, target)


def _key(step: Step) -> tuple[object, ...]:
    """Return what two steps must share to share a recording."""
    layout = step.layout
    return (len(step.deep), *layout.index.shape, layout.in_order, step.beta is None)


Fields = TypeVar("Fields", Step, Layout)


def _tensors(of: Step | Layout) -> dict[str, Any]:
    values = ((each.name, getattr(of, each.name)) for each in fields(of))
    return {name: value for name, value in values if isinstance(value, Tensor)}


def _clone(of: Fields) -> Fields:
    return replace(of, **{name: value.clone() for name, value in _tensors(of).items()})


def _copy(source: Step | Layout, target: Step | Layout) -> None:
    """Copy all tensors in as few launches as there are dtypes."""
    old, new = _tensors(target), _tensors(source)
    for dtype in {each.dtype for each in new.values()}:
        names = [name for name, value in new.items() if value.dtype == dtype]
        torch._foreach_copy_([old[name] for name in names], [new[name] for name in names])
