"""Which numbers a model is run in where nothing is said."""

import torch

from esamp.errors import UsageError

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
AUTO = "auto"


def choose_dtype(dtype: str, device: str | None = None) -> str:
    """Return the name of a dtype; for "auto" bfloat16, or float32 on a CPU without bfloat16.

    A CPU whose instructions know no bfloat16 takes ten times as long with it. One that knows it may
    still be slower for many rows (Intel without AMX: up to 1.6 times), at half of the memory.

    Args:
        dtype: "auto" or one of `DTYPES`.
        device: A torch device; None for a GPU if there is one.

    Raises:
        UsageError: The dtype is unknown.
    """
    if dtype not in (AUTO, *DTYPES):
        raise UsageError(f"dtype is {dtype!r}: give one of {', '.join((AUTO, *DTYPES))}")
    if dtype != AUTO:
        return dtype
    kind = torch.device(device).type if device is not None else ""
    on_cpu = kind == "cpu" if kind else not torch.cuda.is_available()
    return "float32" if on_cpu and not _cpu_has_bfloat16() else "bfloat16"


def _cpu_has_bfloat16() -> bool:
    # What torch asks itself before it takes oneDNN's bfloat16 products.
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
