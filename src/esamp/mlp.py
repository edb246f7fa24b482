"""The paper's distiller: a small gated network that takes one Adam step per decode step.

Two residual SwiGLU blocks, x ← x + Down(SiLU(Gate·x)·(Up·x)), hidden → 384 → hidden (paper, E.2),
trained on the squared error summed over hidden and averaged over rows (equation 10). The paper
leaves initialisation, biases and Adam's betas open; we take torch's defaults for `Linear` and
`Adam`, without biases.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import silu

from esamp.distiller import check_positive
from esamp.errors import UsageError
from esamp.layout import Layout

BETAS = (0.9, 0.999)
BLOCKS = 2


@dataclass(frozen=True, kw_only=True)
class MLPDistiller:
    """The paper's Latent Distiller, with its exact settings as defaults."""

    width: int = 384
    """Inner width of a SwiGLU block."""
    learning_rate: float = 4e-4
    epsilon: float = 1e-4
    """Adam's ε."""
    clip: float = 0.5
    """Largest gradient norm of a group."""
    seed: int = 0
    """Seed of the initial weights, which all groups share."""
    name: str = "mlp"

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UsageError(f"width is {self.width}: give 1 or more")
        for name in ("learning_rate", "epsilon", "clip"):
            check_positive(name, getattr(self, name))

    def open(self, groups: int, hidden: int, device: torch.device | str) -> "MLPBank":
        """Return freshly initialised networks."""
        return MLPBank(self, groups, hidden, device)

    def state_bytes(self, hidden: int) -> int:
        """Weights, gradients and Adam's two moments, and the count of steps."""
        return 4 * (4 * self.parameters(hidden) + 1)

    def parameters(self, hidden: int) -> int:
        """Weights of one group's network."""
        return BLOCKS * 3 * hidden * self.width


class MLPBank:
    """The networks of all groups, one row of parameters each, and Adam's state."""

    def __init__(
        self, settings: MLPDistiller, groups: int, hidden: int, device: torch.device | str
    ) -> None:
        self._settings = settings
        self._hidden = hidden
        # What is made in inference mode can never take gradients.
        with torch.inference_mode(False):
            self._initial = _initial_weights(settings, hidden).to(device)
            self.weights = self._initial.repeat(groups, 1)
        self.gradient = torch.zeros_like(self.weights)
        self.first_moment = torch.zeros_like(self.weights)
        self.second_moment = torch.zeros_like(self.weights)
        self.steps = torch.zeros(groups, 1, device=device)

    def predict(
        self, shallow: Float[Tensor, "rows hidden"], layout: Layout
    ) -> Float[Tensor, "rows hidden"]:
        """Run each row through its group's network."""
        return layout.unpack(self._forward(self.weights[: layout.groups], layout.pack(shallow)))

    def learn(
        self,
        shallow: Float[Tensor, "rows hidden"],
        deep: Float[Tensor, "rows hidden"],
        taught: Bool[Tensor, " rows"],
        layout: Layout,
    ) -> None:
        """Take one clipped Adam step per group that has a taught row."""
        # Engines decode in no_grad or inference mode, and autograd takes part in neither.
        with torch.inference_mode(False), torch.enable_grad():
            mask = layout.pack_mask(taught)
            inputs = torch.where(mask[..., None], layout.pack(shallow), 0.0)
            targets = torch.where(mask[..., None], layout.pack(deep), 0.0)
            weights = self.weights[: layout.groups].detach().requires_grad_()
            each = self._loss(self._forward(weights, inputs), targets)
            losses = (each * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
            (gradient,) = torch.autograd.grad(losses.sum(), weights)
        self.gradient[: layout.groups] = gradient
        self._adam(active=mask.any(dim=1, keepdim=True))

    def _loss(
        self,
        predicted: Float[Tensor, "groups places hidden"],
        deep: Float[Tensor, "groups places hidden"],
    ) -> Float[Tensor, "groups places"]:
        """Return the loss of each row (paper, equation 10)."""
        return (predicted - deep).square().sum(dim=-1)

    def _adam(self, active: Bool[Tensor, "groups 1"]) -> None:
        """Adam as `torch.optim.Adam` does it, on those of the first groups that are active."""
        settings = self._settings
        weights, gradient, first, second, steps = (state[: len(active)] for state in self._state)
        norm = gradient.norm(dim=1, keepdim=True)
        # Two gated blocks raise a large input to its fourth power: such a step is left out.
        active = active & norm.isfinite()
        gradient.copy_(gradient.where(active, 0.0))
        norm = norm.where(active, 0.0)
        gradient.mul_((settings.clip / (norm + 1e-6)).clamp(max=1.0))
        on = active.float()
        steps += on
        first.lerp_(gradient, on * (1 - BETAS[0]))
        second.lerp_(gradient.square(), on * (1 - BETAS[1]))
        count = steps.clamp(min=1)
        rate = on * settings.learning_rate / (1 - BETAS[0] ** count)
        spread = (second / (1 - BETAS[1] ** count)).sqrt_().add_(settings.epsilon)
        weights.sub_(rate * first / spread)

    @property
    def _state(self) -> tuple[Tensor, ...]:
        return self.weights, self.gradient, self.first_moment, self.second_moment, self.steps

    def _forward(
        self,
        weights: Float[Tensor, "groups parameters"],
        states: Float[Tensor, "groups places hidden"],
    ) -> Float[Tensor, "groups places hidden"]:
        for block in weights.chunk(BLOCKS, dim=1):
            gate, up, down = block.unflatten(1, (3, self._hidden, self._settings.width)).unbind(1)
            states = states + (silu(states @ gate) * (states @ up)) @ down.mT
        return states

    def reset(self, groups: Int[Tensor, " some"]) -> None:
        """Give some groups their initial weights again."""
        self.weights.index_copy_(0, groups, self._initial.expand(len(groups), -1))
        for state in self._state[1:]:
            state.index_fill_(0, groups, 0.0)

    def move(self, source: int, target: int) -> None:
        """Copy a group's weights and Adam's state."""
        for state in self._state:
            state[target] = state[source]


def _initial_weights(settings: MLPDistiller, hidden: int) -> Float[Tensor, " parameters"]:
    """Draw gate, up and down of each block as `torch.nn.Linear` does: uniform within 1/√inputs."""
    generator = torch.Generator().manual_seed(settings.seed)
    bounds = (hidden**-0.5, hidden**-0.5, settings.width**-0.5)
    matrices = [
        (2 * torch.rand(hidden * settings.width, generator=generator) - 1) * bound
        for _ in range(BLOCKS)
        for bound in bounds
    ]
    return torch.cat(matrices)
