"""Does fp32 hold over 32k steps? Replayed states in a loop, against the same in fp64."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import torch
from distillers_replay import Arm, Features, Ridge
from distillers_states import Recording
from jaxtyping import Float
from torch import Tensor

MARKS = (128, 1024, 4096, 8192, 16384, 32768)
RANK_CUT = 1e-12
"""Eigenvalues of the fp64 normal equations below this share of the largest count as zero."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way of learning for a long time."""

    data: Literal["varied", "stuck"]
    """All prompts in turn, or one step for ever, as when all samples repeat themselves."""
    ridge: float = 100.0
    forget: float = 1.0
    drift: float = 0.0

    @property
    def name(self) -> str:
        """Name in tables."""
        ageing = f", forget {self.forget}" if self.forget != 1 else ""
        ageing += f", drift {self.drift:g}" if self.drift else ""
        return f"{self.data}, ridge {self.ridge:g}{ageing}"


CASES = (
    *(
        Case(data=data, forget=forget, drift=drift)
        for data in ("varied", "stuck")
        for forget, drift in ((1.0, 0.0), (0.999, 0.0), (0.99, 0.0), (1.0, 1e-3))
    ),
    Case(data="varied", ridge=1.0),
    Case(data="varied", ridge=0.01),
)
FEATURES = Arm(rank=255)
"""The library's, but one: with the bias they need no padding, which forgetting would blow up."""
OUTPUTS = 64
"""Dimensions of deep that are predicted; P does not depend on them."""


def long_run(states: Recording) -> tuple[Tensor, Tensor]:
    """Return φ and deep of all steps in which no sample has ended, `[steps, rows, …]` each."""
    whole = states.taught.all(dim=-1)
    deep = states.states["deep"][whole]
    phi = Features(FEATURES, deep.shape[-1], None)(states.states["first"][whole])
    return phi, deep[..., :OUTPUTS]


class Normal:
    """The same problem as normal equations in fp64, which no rounding can spoil on the way."""

    def __init__(self, case: Case, width: int, hidden: int) -> None:
        self._forget = case.forget
        self._gram = case.ridge * torch.eye(width, dtype=torch.float64)
        self._moment = torch.zeros(width, hidden, dtype=torch.float64)

    def learn(
        self, phi: Float[Tensor, "1 rows width"], deep: Float[Tensor, "1 rows hidden"]
    ) -> None:
        """Add the rows of a step."""
        self._gram = self._forget * self._gram + phi[0].mT @ phi[0]
        self._moment = self._forget * self._moment + phi[0].mT @ deep[0]

    @property
    def weights(self) -> Float[Tensor, "width hidden"]:
        """The solution; of least length where the data do not say."""
        values, vectors = torch.linalg.eigh(self._gram)
        inverse = torch.where(values > RANK_CUT * values[-1], 1 / values, 0.0)
        return vectors @ (inverse[:, None] * (vectors.mT @ self._moment))


class Filter:
    """The recursion itself in fp64: where weights drift there are no normal equations."""

    def __init__(self, case: Case, width: int, hidden: int) -> None:
        self._ridge = start(case, width, hidden, torch.float64)

    def learn(
        self, phi: Float[Tensor, "1 rows width"], deep: Float[Tensor, "1 rows hidden"]
    ) -> None:
        """Absorb the rows of a step."""
        self._ridge.learn(phi, deep, torch.ones(phi.shape[:2], dtype=torch.bool))

    @property
    def weights(self) -> Float[Tensor, "width hidden"]:
        """B."""
        return self._ridge.weights[0]


def start(case: Case, width: int, hidden: int, dtype: torch.dtype) -> Ridge:
    """Return the fresh distiller of one group."""
    weights = torch.zeros(1, width, hidden, dtype=dtype)
    inverse = torch.eye(width, dtype=dtype)[None] / case.ridge
    return Ridge(weights, inverse, forget=case.forget, drift=case.drift)


def check(
    case: Case, phi: Float[Tensor, "steps rows width"], deep: Float[Tensor, "steps rows hidden"]
) -> Iterator[dict[str, Any]]:
    """Learn for up to 32k steps and compare at every mark, until something is not finite.

    Yields:
        `step`; `finite`; `gap`: ‖Φ(B − B₆₄)‖/‖ΦB₆₄‖ over the data; `least` and `largest`: the
        extreme eigenvalues of P.
    """
    if case.data == "stuck":
        phi, deep = phi[:1], deep[:1]
    everyone = torch.ones(1, phi.shape[1], dtype=torch.bool)
    probe = phi[:: max(1, len(phi) // 128)].flatten(0, 1).double()
    ours = start(case, phi.shape[2], deep.shape[2], torch.float32)
    exact = (Filter if case.drift else Normal)(case, phi.shape[2], deep.shape[2])
    for step in count(1):
        at = (step - 1) % len(phi)
        ours.learn(phi[at][None], deep[at][None], everyone)
        exact.learn(phi[at][None].double(), deep[at][None].double())
        if step not in MARKS:
            continue
        finite = bool(ours.weights.isfinite().all() and ours.inverse.isfinite().all())
        if not finite:
            yield {"step": step, "finite": False}
            return
        expected = probe @ exact.weights
        gap = (probe @ ours.weights[0].double() - expected).norm() / expected.norm()
        values = torch.linalg.eigvalsh(ours.inverse[0].double())
        yield {
            "step": step,
            "finite": True,
            "gap": float(gap),
            "least": float(values[0]),
            "largest": float(values[-1]),
        }
        if step == MARKS[-1]:
            return
