"""A mode under which no operation may wait for the device (on CPU: the same operations)."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense,  # .item(), bool(), int(), float()
    aten.nonzero,
    aten.masked_select,
    aten.equal,
    aten._unique2,
}
INDEXES = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


class HostSyncError(AssertionError):
    """An operation needs a value on the host."""


class ForbidHostSync(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        operation = func.overloadpacket
        if operation in WAITS or (operation in INDEXES and any(map(_is_mask, args[1]))):
            raise HostSyncError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)
