"""The recursive distiller: exact online ridge regression on fixed random features. Source: ours.

    φ(x) = [√2·relu(G·rmsnorm(x)), 1]
    predicted = Φ·B
    S = I + Φ·P·Φᵀ;   B ← B + P·Φᵀ·S⁻¹·(Y − Φ·B);   P ← P − P·Φᵀ·S⁻¹·Φ·P        P₀ = I/λ, B₀ = 0

After any number of steps B is the batch ridge solution on all rows seen (block recursive least
squares, by the Woodbury identity). φᵀPφ is the leverage of a row. There is no learning rate.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from esamp.errors import UsageError
from esamp.layout import Layout

BLOCK = 64
"""Rows of a group absorbed at once; more are absorbed block after block, which is exact."""

ALIGN = 16
"""Features are padded with zeros to a multiple of this: matrices of odd width are multiplied half
as fast. A feature that is always zero leaves B at zero, and all else as it is."""

LEAST_RIDGE = 0.01
"""Below 0.001 the inverse covariance was seen to lose its sign within some dozen steps."""


@dataclass(frozen=True, kw_only=True)
class RecursiveDistiller:
    """Online ridge regression from random features of shallow to deep."""

    features: int = 256
    """Random features r, beside the bias; 0 leaves the shrunk mean."""
    ridge: float = 100.0
    """λ: how strongly the weights are pulled to zero."""
    seed: int = 0
    """Seed of the random projection G, which all groups share."""
    name: str = "recursive"

    def __post_init__(self) -> None:
        if self.features < 0:
            raise UsageError(f"features is {self.features}: give 0 or more")
        if not (math.isfinite(self.ridge) and self.ridge >= LEAST_RIDGE):
            raise UsageError(
                f"ridge is {self.ridge}: give a finite number, {LEAST_RIDGE} or above; with less, "
                "fp32 cannot hold the inverse covariance"
            )

    def open(self, groups: int, hidden: int, device: torch.device | str) -> "RecursiveBank":
        """Return fresh distillers that predict zero."""
        return RecursiveBank(self, groups, hidden, device)

    def state_bytes(self, hidden: int) -> int:
        """B and P: 4·(w·hidden + w²), with w the padded number of features."""
        return 4 * (self.width * hidden + self.width * self.width)

    @property
    def width(self) -> int:
        """Random features and bias, padded to a multiple of `ALIGN`."""
        return -(-(self.features + 1) // ALIGN) * ALIGN


class _Seen(NamedTuple):
    """What `predict` has computed, which `learn` needs again if it is taught the same states."""

    shallow: Tensor
    layout: Layout
    features: Float[Tensor, "groups places features"]
    predicted: Float[Tensor, "groups places hidden"]


class RecursiveBank:
    """Weights B and inverse covariance P of all groups."""

    def __init__(
        self, settings: RecursiveDistiller, groups: int, hidden: int, device: torch.device | str
    ) -> None:
        generator = torch.Generator().manual_seed(settings.seed)
        projection = torch.randn(hidden, settings.features, generator=generator)
        # √2 keeps the second moment that relu halves; 1/√hidden makes each feature of order one.
        projection *= math.sqrt(2 / hidden)
        self._features, width = settings.features, settings.width
        padding = (0, width - settings.features)
        self._projection = torch.nn.functional.pad(projection, padding).to(device)
        self._prior = 1 / settings.ridge
        self.weights = torch.zeros(groups, width, hidden, device=device)
        self.inverse = torch.zeros(groups, width, width, device=device)
        self.inverse.diagonal(dim1=1, dim2=2).fill_(self._prior)
        self._seen: _Seen | None = None

    def featurise(self, shallow: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows features"]:
        """Return φ(shallow): random features, the bias feature, padding."""
        scale = torch.rsqrt(shallow.square().mean(dim=-1, keepdim=True) + 1e-6)
        features = torch.relu((shallow * scale) @ self._projection)
        features[:, self._features] = 1.0
        features[:, self._features + 1 :] = 0.0
        return features

    def predict(
        self, shallow: Float[Tensor, "rows hidden"], layout: Layout
    ) -> Float[Tensor, "rows hidden"]:
        """Return Φ·B, each row with its group's B."""
        features = layout.pack(self.featurise(shallow))
        predicted = features @ self.weights[: layout.groups]
        self._seen = _Seen(shallow, layout, features, predicted)
        return layout.unpack(predicted)

    def learn(
        self,
        shallow: Float[Tensor, "rows hidden"],
        deep: Float[Tensor, "rows hidden"],
        taught: Bool[Tensor, " rows"],
        layout: Layout,
    ) -> None:
        """Absorb the taught rows. A masked row is a row of zeros, which changes nothing."""
        mask = layout.pack_mask(taught)[..., None]
        seen, self._seen = self._seen, None
        predicted = None
        if seen is not None and seen.shallow is shallow and seen.layout is layout:
            packed, predicted = seen.features, seen.predicted[:, :BLOCK]
        else:
            packed = layout.pack(self.featurise(shallow))
        # `where`, not a product: a masked row may hold NaN, and NaN·0 would poison B for good.
        features = torch.where(mask, packed, 0.0)
        blocks = (features, layout.pack(deep), mask)
        for phi, target, taken in zip(*(each.split(BLOCK, dim=1) for each in blocks), strict=True):
            if predicted is None:
                predicted = phi @ self.weights[: len(phi)]
            self._absorb(phi, torch.where(taken, target - predicted, 0.0))
            predicted = None  # for the next block B is another

    def _absorb(
        self,
        phi: Float[Tensor, "groups block features"],
        error: Float[Tensor, "groups block hidden"],
    ) -> None:
        """One exact step of the first groups, from features and what B leaves unexplained.

        With S = L·Lᵀ and V = L⁻¹·Φ·P both updates are products: B += (L⁻ᵀ·V)ᵀ·(Y − Φ·B) and
        P −= Vᵀ·V, which leaves P symmetric. L is small, and S is I plus a positive matrix, so L is
        inverted once instead of solved for wide right-hand sides. `cholesky_ex` leaves out the
        check of its result, which would wait for the device.
        """
        weights, inverse = self.weights[: len(phi)], self.inverse[: len(phi)]
        gain = phi @ inverse
        covariance = gain @ phi.mT
        covariance.diagonal(dim1=1, dim2=2).add_(1.0)
        factor, _ = torch.linalg.cholesky_ex(covariance)
        unit = torch.eye(phi.shape[1], device=phi.device).expand_as(factor)
        unfactor = torch.linalg.solve_triangular(factor, unit, upper=False)
        half_gain = unfactor @ gain
        weights.baddbmm_((unfactor.mT @ half_gain).mT, error)
        inverse.baddbmm_(half_gain.mT, half_gain, alpha=-1)

    def leverage(
        self, shallow: Float[Tensor, "rows hidden"], layout: Layout
    ) -> Float[Tensor, " rows"]:
        """Return φᵀPφ, how far a row lies from what its group has seen."""
        phi = layout.pack(self.featurise(shallow))
        inverse = self.inverse[: layout.groups]
        return layout.unpack(((phi @ inverse) * phi).sum(dim=-1, keepdim=True))[:, 0]

    def reset(self, groups: Int[Tensor, " some"]) -> None:
        """Make the distillers of some groups predict zero again."""
        self._seen = None
        self.weights.index_fill_(0, groups, 0.0)
        self.inverse.index_fill_(0, groups, 0.0)
        self.inverse.diagonal(dim1=1, dim2=2).index_fill_(0, groups, self._prior)

    def move(self, source: int, target: int) -> None:
        """Copy a group's B and P."""
        self._seen = None
        self.weights[target] = self.weights[source]
        self.inverse[target] = self.inverse[source]
