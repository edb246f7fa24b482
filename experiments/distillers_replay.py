"""Replay of recorded states through distillers, among them some that the library does not have.

All ridge distillers here share one update, that of `esamp.recursive`, with any features, a prior
and two kinds of forgetting:

    exponential    P ← P/γ before a step: minimises Σ γ^age ‖Y − ΦB‖² + γ^steps λ‖B − B₀‖²
    drift          B ← B₀ + a(B − B₀), P ← a²P + (1 − a²)P₀ with a² = 1 − drift: the Kalman filter
                   for weights that wander around B₀; P stays below P₀
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from distillers_states import Recording
from jaxtyping import Bool, Float
from torch import Tensor

from esamp import MeanDistiller
from esamp.distiller import Bank, Distiller
from esamp.layout import Layout
from esamp.recursive import ALIGN, BLOCK

FIT_RIDGE = 100.0
"""λ of everything that is fitted once per model."""
SILU_MOMENT = 0.3557771
"""E[silu(z)²] for a standard normal z."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A distiller. As it stands: the library's `RecursiveDistiller()`."""

    features: Literal["relu", "gated", "linear", "svd", "learned"] = "relu"
    """svd: main directions of the input; learned: those of a ridge regression's predictions."""
    rank: int = 256
    """Features beside the bias; 0: the bias alone; the hidden size with linear: all, unmixed."""
    ridge: float = 100.0
    bias: float = 1.0
    """Value of the bias feature: its own ridge is ridge/bias²."""
    shown: Literal["first", "embedding", "middle"] = "first"
    """Which states are the input."""
    standardised: bool = False
    """Whether each input dimension is centred and scaled, by statistics fitted once."""
    centred: bool = False
    """Whether the target is deep minus the group's running mean, which the prediction adds."""
    gate: bool = False
    """Whether the prediction is mean + (ΦB − mean)/(1 + leverage): the mean where φ is new."""
    forget: float = 1.0
    drift: float = 0.0
    prior: Literal["none", "weights", "rows", "offset", "frozen"] = "none"
    """B₀ is a ridge solution on other prompts, and P₀: I/λ; that of `prior_rows` such rows; I/λ of
    the bias alone; nothing, so that nothing is learnt."""
    prior_rows: float = 0.0
    prefill: bool = False
    """Whether the prompt's own pairs are learnt first."""
    shuffled: bool = False
    """A control: each row has the input of another one of its group."""
    distiller: Distiller | None = None
    """A bank of the library; of the above it takes `shown` and `shuffled` only."""
    normalised: bool = False
    """Whether that bank's input is rms-normalised."""
    seed: int = 0
    """Seed of the random projection."""

    @property
    def fitted(self) -> bool:
        """Whether something comes from other prompts."""
        return self.standardised or self.prior != "none" or self.features in ("svd", "learned")

    @property
    def name(self) -> str:
        """Name in tables, of an arm without a bank of the library."""
        kind = f"{self.features} {self.rank}" if self.rank else "bias only"
        prior = f"prior {self.prior_rows:g} rows" if self.prior == "rows" else f"prior {self.prior}"
        parts = {
            f"ridge {self.ridge:g}": self.prior != "frozen",
            self.shown: self.shown != "first",
            f"bias {self.bias:g}": self.bias != 1,
            "standardised": self.standardised,
            "centred": self.centred,
            "gate": self.gate,
            f"forget {self.forget:g}": self.forget != 1,
            f"drift {self.drift:g}": self.drift != 0,
            prior: self.prior != "none",
            "prefill": self.prefill,
            "shuffled": self.shuffled,
            f"seed {self.seed}": self.seed != 0,
        }
        return ", ".join([kind, *(part for part, said in parts.items() if said)])


def rms_norm(states: Float[Tensor, "*rows hidden"]) -> Float[Tensor, "*rows hidden"]:
    """Divide states by their root mean square, as the library's features do."""
    return states * torch.rsqrt(states.square().mean(dim=-1, keepdim=True) + 1e-6)


class Features:
    """φ of one arm: a map that is fixed before decoding starts."""

    def __init__(self, arm: Arm, hidden: int, other: Recording | None) -> None:
        self._arm = arm
        generator = torch.Generator().manual_seed(arm.seed)
        self._shift, self._scale = torch.zeros(hidden), torch.ones(hidden)
        if arm.fitted and other is not None:
            rows = rms_norm(other.rows(arm.shown))
            if arm.standardised or arm.features in ("svd", "learned"):
                self._shift = rows.mean(dim=0)
            if arm.standardised:
                self._scale = 1 / (rows.std(dim=0) + 1e-6)
            if arm.features in ("svd", "learned"):
                deep = other.rows("deep")
                self._projection = basis(arm, (rows - self._shift) * self._scale, deep)
                return
        if arm.features == "linear" and arm.rank == hidden:
            self._projection = torch.eye(hidden)
            return
        columns = 2 * arm.rank if arm.features == "gated" else arm.rank
        self._projection = torch.randn(hidden, columns, generator=generator) / math.sqrt(hidden)

    @property
    def width(self) -> int:
        """Features and bias, padded as the library does."""
        return -(-(self._arm.rank + 1) // ALIGN) * ALIGN

    def __call__(self, states: Float[Tensor, "*rows hidden"]) -> Float[Tensor, "*rows width"]:
        """Return φ: features, the bias, padding."""
        arm = self._arm
        inputs = (rms_norm(states) - self._shift) * self._scale
        phi = inputs @ self._projection
        if arm.features == "relu":
            phi = torch.relu(phi) * math.sqrt(2)
        elif arm.features == "gated":
            gate, up = phi.chunk(2, dim=-1)
            phi = torch.nn.functional.silu(gate) * up / math.sqrt(SILU_MOMENT)
        phi = torch.nn.functional.pad(phi, (0, self.width - arm.rank))
        phi[..., arm.rank] = arm.bias
        return phi


def basis(
    arm: Arm, inputs: Float[Tensor, "rows hidden"], deep: Float[Tensor, "rows hidden"]
) -> Float[Tensor, "hidden rank"]:
    """Return directions that are best in their kind, with features of mean square 1 over all."""
    x, y = inputs.double(), (deep - deep.mean(dim=0)).double()
    gram = x.mT @ x
    if arm.features == "svd":
        directions = torch.linalg.eigh(gram).eigenvectors.flip(-1)[:, : arm.rank]
    else:
        weights = torch.linalg.solve(gram + FIT_RIDGE * torch.eye(len(gram)), x.mT @ y)
        outputs = torch.linalg.eigh(weights.mT @ gram @ weights).eigenvectors.flip(-1)
        directions = weights @ outputs[:, : arm.rank]
    size = ((x @ directions).square().mean()).sqrt()
    return (directions / size).float()


class Ridge:
    """Online ridge regression of all groups: weights B, inverse covariance P, and where from."""

    def __init__(
        self,
        weights: Float[Tensor, "groups width hidden"],
        inverse: Float[Tensor, "groups width width"],
        forget: float = 1.0,
        drift: float = 0.0,
    ) -> None:
        self.weights, self.inverse = weights.clone(), inverse.clone()
        self._start = (weights, inverse) if drift else None
        self._forget, self._drift = forget, drift

    def learn(
        self,
        phi: Float[Tensor, "groups rows width"],
        target: Float[Tensor, "groups rows hidden"],
        taught: Bool[Tensor, "groups rows"],
    ) -> None:
        """Forget a little and absorb the taught rows; a group without one is left alone."""
        self._age(taught.any(dim=1)[:, None, None])
        phi, target = (torch.where(taught[..., None], each, 0.0) for each in (phi, target))
        for block, wanted in zip(phi.split(BLOCK, 1), target.split(BLOCK, 1), strict=True):
            gain = block @ self.inverse
            covariance = gain @ block.mT
            covariance.diagonal(dim1=1, dim2=2).add_(1.0)
            factor, _ = torch.linalg.cholesky_ex(covariance)
            half = torch.linalg.solve_triangular(factor, gain, upper=False)
            error = torch.linalg.solve_triangular(
                factor, wanted - block @ self.weights, upper=False
            )
            self.weights.baddbmm_(half.mT, error)
            self.inverse.baddbmm_(half.mT, half, alpha=-1)

    def _age(self, active: Bool[Tensor, "groups 1 1"]) -> None:
        if self._forget != 1:
            self.inverse.div_(torch.where(active, self._forget, 1.0).to(self.inverse.dtype))
        if self._start is not None:
            share = active.to(self.inverse.dtype) * self._drift
            weights, inverse = self._start
            self.weights.lerp_(weights, 1 - (1 - share).sqrt())
            self.inverse.lerp_(inverse, share)


def open_ridge(arm: Arm, features: Features, test: Recording, other: Recording | None) -> Ridge:
    """Return the state that every group of an arm starts from."""
    groups, hidden, width = len(test.taught), test.states["deep"].shape[-1], features.width
    weights, inverse = torch.zeros(width, hidden), torch.eye(width) / arm.ridge
    if arm.prior != "none":
        assert other is not None, "a prior comes from other prompts"
        phi, deep = features(other.rows(arm.shown)).double(), other.rows("deep").double()
        gram, unit = phi.mT @ phi, torch.eye(width, dtype=torch.float64)
        weights = torch.linalg.solve(gram + FIT_RIDGE * unit, phi.mT @ deep).float()
        if arm.prior == "rows":
            share = arm.prior_rows / len(phi)
            inverse = torch.linalg.inv(share * gram + arm.ridge * unit).float()
        elif arm.prior == "offset":
            inverse = torch.zeros(width, width)
            inverse[arm.rank, arm.rank] = 1 / arm.ridge
        elif arm.prior == "frozen":
            inverse = torch.zeros(width, width)
    start = weights.expand(groups, -1, -1), inverse.expand(groups, -1, -1)
    return Ridge(*start, forget=arm.forget, drift=arm.drift)


def relative_error(
    residual: Float[Tensor, "groups rows hidden"],
    deep: Float[Tensor, "groups rows hidden"],
    taught: Bool[Tensor, "groups rows"],
) -> Float[Tensor, " groups"]:
    """Return the mean ‖residual‖²/‖deep‖² of each group's taught rows; NaN where there is none."""
    errors = residual.square().sum(dim=-1) / deep.square().sum(dim=-1)
    return torch.where(taught, errors, 0.0).sum(dim=1) / taught.sum(dim=1)


def replay(
    arm: Arm, test: Recording, other: Recording | None = None
) -> dict[str, Float[Tensor, "groups steps"]]:
    """Judge each step and learn it, in the order of decoding.

    Args:
        arm: The distiller.
        test: States to replay; each prompt is a group.
        other: States of other prompts, for what is fitted once per model.

    Returns:
        `error`: `relative_error` of every step; and for ridge arms `leverage`: the correlation of
        φᵀPφ with the rows' error within a group and step, as ranks (Spearman).
    """
    deep, taught, shown = test.states["deep"], test.taught, test.states[arm.shown]
    if arm.shuffled:
        shown = shown.roll(1, dims=2)
    groups, steps, rows, hidden = deep.shape
    mean = MeanDistiller().open(groups, hidden, "cpu")
    layout = Layout.of([group for group in range(groups) for _ in range(rows)], groups)
    each_group = Layout.of(range(groups), groups)
    model = _Library(arm, layout, hidden) if arm.distiller else _Ours(arm, test, other)
    errors, leverage = [], []
    for step in range(steps):
        target, here = deep[:, step], taught[:, step]
        predicted = model.predict(shown[:, step], mean.predict(target[:, 0], each_group))
        residual = target - predicted
        errors.append(relative_error(residual, target, here))
        if isinstance(model, _Ours):
            leverage.append(rank_correlation(model.leverage(), residual, target, here))
        mean.learn(target.flatten(0, 1), target.flatten(0, 1), here.flatten(), layout)
        model.learn(target, mean.predict(target[:, 0], each_group), here)
    found = {"error": torch.stack(errors, dim=1)}
    return found | ({"leverage": torch.stack(leverage, dim=1)} if leverage else {})


class _Library:
    """A bank of the library."""

    def __init__(self, arm: Arm, layout: Layout, hidden: int) -> None:
        assert arm.distiller is not None, "the caller has looked"
        self._arm, self._layout = arm, layout
        self._bank: Bank = arm.distiller.open(layout.groups, hidden, "cpu")

    def predict(
        self, shown: Float[Tensor, "groups rows hidden"], means: Float[Tensor, "groups hidden"]
    ) -> Float[Tensor, "groups rows hidden"]:
        self._shown = (rms_norm(shown) if self._arm.normalised else shown).flatten(0, 1)
        return self._bank.predict(self._shown, self._layout).view(shown.shape)

    def learn(
        self,
        deep: Float[Tensor, "groups rows hidden"],
        means: Float[Tensor, "groups hidden"],
        taught: Bool[Tensor, "groups rows"],
    ) -> None:
        self._bank.learn(self._shown, deep.flatten(0, 1), taught.flatten(), self._layout)


class _Ours:
    """A ridge regression with the arm's features, prior, target and forgetting."""

    def __init__(self, arm: Arm, test: Recording, other: Recording | None) -> None:
        self._arm = arm
        self._features = Features(arm, test.states["deep"].shape[-1], other)
        self._ridge = open_ridge(arm, self._features, test, other)
        if arm.prefill:
            self._read_prompts(test)

    def _read_prompts(self, test: Recording) -> None:
        longest = max(len(each["deep"]) for each in test.prefill)
        shape = (len(test.prefill), longest, test.states["deep"].shape[-1])
        shown, deep = torch.zeros(shape), torch.zeros(shape)
        taught = torch.zeros(shape[:2], dtype=torch.bool)
        for group, each in enumerate(test.prefill):
            length = len(each["deep"])
            shown[group, :length], deep[group, :length] = each[self._arm.shown], each["deep"]
            taught[group, :length] = True
        self._ridge.learn(self._features(shown), deep, taught)

    def predict(
        self, shown: Float[Tensor, "groups rows hidden"], means: Float[Tensor, "groups hidden"]
    ) -> Float[Tensor, "groups rows hidden"]:
        self._phi = self._features(shown)
        predicted, beside = self._phi @ self._ridge.weights, means[:, None]
        if self._arm.centred:
            predicted = predicted + beside
        if self._arm.gate:
            predicted = beside + (predicted - beside) / (1 + self.leverage()[..., None])
        return predicted

    def leverage(self) -> Float[Tensor, "groups rows"]:
        return ((self._phi @ self._ridge.inverse) * self._phi).sum(dim=-1)

    def learn(
        self,
        deep: Float[Tensor, "groups rows hidden"],
        means: Float[Tensor, "groups hidden"],
        taught: Bool[Tensor, "groups rows"],
    ) -> None:
        target = deep - means[:, None] if self._arm.centred else deep
        self._ridge.learn(self._phi, target, taught)


def rank_correlation(
    leverage: Float[Tensor, "groups rows"],
    residual: Float[Tensor, "groups rows hidden"],
    deep: Float[Tensor, "groups rows hidden"],
    taught: Bool[Tensor, "groups rows"],
) -> Float[Tensor, " groups"]:
    """Return Spearman's correlation of leverage and error.

    NaN where a row is not taught, or where all rows have the same leverage, as with a bias alone.
    """
    error = residual.norm(dim=-1) / deep.norm(dim=-1)
    ranks = torch.stack([each.argsort(dim=1).argsort(dim=1).float() for each in (leverage, error)])
    ranks -= ranks.mean(dim=-1, keepdim=True)
    together = (ranks[0] * ranks[1]).sum(dim=-1)
    lengths = ranks.square().sum(dim=-1).sqrt().prod(dim=0)
    low, high = leverage.aminmax(dim=1)
    known = taught.all(dim=1) & (high - low > 1e-4 * high)
    return torch.where(known, together / lengths, torch.nan)
