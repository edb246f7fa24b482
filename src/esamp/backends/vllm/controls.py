"""Controls that an engine can run in ESamp's place: setting `control`, for evaluation.

They are explorers whose direction is another one; strength, truncation and scope are a request's.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from esamp.backends.vllm.ranks import AgreedBank, Broadcast
from esamp.baselines.noise import of_length
from esamp.capture import Captured, capture
from esamp.explorer import ESamp, Explorer
from esamp.method import Step

Control = Literal["none", "noise", "sharpening", "plain"]
"""What is pushed along: the residual, noise of its length, deep itself, or nothing."""


def open_explorer(
    control: Control,
    settings: ESamp,
    groups: int,
    hidden: int,
    device: torch.device | str,
    broadcast: Broadcast | None = None,
) -> Explorer | Captured:
    """Return fresh distillers for that many groups, pushing along what the control says.

    Args:
        control: The control, or none.
        settings: Whose distiller, push and capture count.
        groups: How many there are.
        hidden: Width of states.
        device: Where they are.
        broadcast: How ranks agree; None where there is one.
    """
    kinds: dict[str, type[Explorer]] = {
        "none": Explorer,
        "noise": Noise,
        "sharpening": Sharpener,
        "plain": Still,
    }
    explorer = kinds[control](settings, groups, hidden, device)
    if broadcast is not None:
        explorer.bank = AgreedBank(explorer.bank, broadcast)
    # Controls may draw, and ranks talk: neither is recorded.
    if control != "none" or broadcast is not None or not settings.capture:
        return explorer
    return capture(explorer, device) or explorer


class Noise(Explorer):
    """As `esamp.baselines.noise`, from one stream an engine: ranks and repeated runs agree.

    What a row draws depends on the rows beside it.
    """

    def __init__(
        self, settings: ESamp, groups: int, hidden: int, device: torch.device | str
    ) -> None:
        super().__init__(settings, groups, hidden, device)
        self._generator = torch.Generator(device).manual_seed(0)

    def explore(
        self, step: Step, residual: Float[Tensor, "rows hidden"]
    ) -> Float[Tensor, "rows hidden"]:
        """Return noise of each row's residual length."""
        noise = torch.randn(residual.shape, generator=self._generator, device=residual.device)
        return of_length(noise, residual)


class Unlearned(Explorer):
    """What asks no distiller."""

    def learn(self, step: Step, tokens: Int[Tensor, " rows"]) -> None:
        """Learn nothing."""


class Sharpener(Unlearned):
    """As `esamp.baselines.sharpening`: a distiller that predicts nothing, and learns nothing."""

    def explore(
        self, step: Step, residual: Float[Tensor, "rows hidden"]
    ) -> Float[Tensor, "rows hidden"]:
        """Return deep, so that the head reads (1+β)·deep."""
        return step.deep


class Still(Unlearned):
    """Plain sampling of rows that are steered in name: what cools is cooled, see `Cooling`."""

    def explore(
        self, step: Step, residual: Float[Tensor, "rows hidden"]
    ) -> Float[Tensor, "rows hidden"]:
        """Return nothing to push along."""
        return torch.zeros_like(residual)
