"""How long a method itself takes within a call."""

import time
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from esamp.method import Call, Method, Push, Steering, Step, Wrapper


@dataclass(kw_only=True)
class Timed(Wrapper):
    """A method that keeps account of its own seconds, over all calls.

    On a GPU each mark waits for the device, so the share is right and the total is slower.
    """

    method: Method
    own_seconds: float = 0.0
    """Spent in steer and learn, after the first token."""
    step_seconds: float = 0.0
    """Spent in all steps after the first."""

    @property
    def share(self) -> float:
        """Seconds in steer and learn over seconds of all steps."""
        return self.own_seconds / self.step_seconds

    @property
    def within(self) -> Method:
        """The method that is timed."""
        return self.method

    @property
    def name(self) -> str:
        """Name of the method within."""
        return self.method.name

    def start(self, call: Call) -> "TimedSteering":
        """Return the method's steering, timed."""
        return TimedSteering(self, self.method.start(call))


class TimedSteering(Steering):
    """Passes every step on, and stops the time."""

    def __init__(self, account: Timed, steering: Steering) -> None:
        self._account = account
        self._steering = steering
        self._last_end: float | None = None

    def steer(self, step: Step) -> Push | None:
        """Steer, timed."""
        start = _now(step)
        push = self._steering.steer(step)
        if self._last_end is not None:
            self._account.own_seconds += _now(step) - start
        return push

    def reweight(
        self,
        step: Step,
        logits: Float[Tensor, "rows vocab"],
        reference: Float[Tensor, "rows vocab"] | None,
    ) -> Float[Tensor, "rows vocab"]:
        """Reweight; no method of ours that is timed does."""
        return self._steering.reweight(step, logits, reference)

    def settle(
        self,
        step: Step,
        scores: Float[Tensor, "rows vocab"],
        reference: Float[Tensor, "rows vocab"],
    ) -> Float[Tensor, "rows vocab"]:
        """Settle; no method of ours that is timed does."""
        return self._steering.settle(step, scores, reference)

    def learn(self, step: Step, tokens: Int[Tensor, " rows"]) -> None:
        """Learn, timed; a step lasts from the end of one learning to the end of the next."""
        start = _now(step)
        self._steering.learn(step, tokens)
        end = _now(step)
        if self._last_end is not None:
            self._account.own_seconds += end - start
            self._account.step_seconds += end - self._last_end
        self._last_end = end


def _now(step: Step) -> float:
    if step.deep.is_cuda:
        torch.cuda.synchronize(step.deep.device)
    return time.perf_counter()
