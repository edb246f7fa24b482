"""Several ranks, one sample: the predictions of rank 0 are everybody's."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from esamp.distiller import Bank
from esamp.layout import Layout

Broadcast = Callable[[Tensor], Tensor]
"""Replaces a tensor by what rank 0 has."""


class AgreedBank:
    """A bank whose predictions are those of rank 0, so that all ranks sample the same tokens."""

    def __init__(self, bank: Bank, broadcast: Broadcast) -> None:
        self._bank = bank
        self._broadcast = broadcast
        self.learn = bank.learn
        self.reset = bank.reset
        self.move = bank.move

    def predict(
        self, shallow: Float[Tensor, "rows hidden"], layout: Layout
    ) -> Float[Tensor, "rows hidden"]:
        """Predict, and agree."""
        return self._broadcast(self._bank.predict(shallow, layout).contiguous())


def agree_with_rank_0(parallel_config: Any) -> Broadcast | None:
    """Return how a prediction becomes rank 0's; None where there is one rank only."""
    if parallel_config.tensor_parallel_size == 1:
        return None
    from vllm.distributed import get_tp_group

    def broadcast(values: Tensor) -> Tensor:
        agreed: Tensor = get_tp_group().broadcast(values, src=0)
        return agreed

    return broadcast
