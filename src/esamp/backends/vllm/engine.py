"""Starting a vLLM engine for esamp, and setting one that runs."""

import dataclasses
import os
from typing import Any

from esamp.errors import MissingDependencyError, ModelError
from esamp.explorer import ESamp

CPU_DEFAULTS = {
    # Compilation takes a minute there, and pays off after many thousand tokens only.
    "enforce_eager": True,
    # Else vLLM wants nine tenths of the machine's memory, and does not start where they are in use.
    "kv_cache_memory_bytes": 2 << 30,
    # Seeded requests, as ours are, kill the engine there when a prompt is split over two steps: it
    # turns their generators back by an offset, which those of the CPU do not have.
    "enable_chunked_prefill": False,
    # Samples of a prompt read it once, but for what fills no block. vLLM's blocks there are of 128
    # tokens, more than most prompts have.
    "block_size": 32,
}


def start_engine(name: str, dtype: str, **engine: Any) -> Any:
    """Start a `vllm.LLM`, with what suits the machine where nothing is said.

    vLLM's log goes to stderr: stdout belongs to data.

    Raises:
        MissingDependencyError: vLLM is not installed.
        ModelError: The engine does not start; vLLM's log says why.
    """
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    try:
        from vllm import LLM
        from vllm.platforms import current_platform
    except ImportError as error:
        raise MissingDependencyError(
            "vLLM is not installed here: install the build for your machine (docs.vllm.ai), or "
            f"use --backend transformers ({error})"
        ) from error
    if current_platform.is_cpu():
        engine = CPU_DEFAULTS | engine
    try:
        return LLM(model=name, dtype=dtype, **engine)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()
        raise ModelError(
            f"vLLM does not start with model {name!r}: {reason[0] if reason else error!r}"
        ) from error


def of_engine(esamp: ESamp) -> dict[str, Any]:
    """Return what of ESamp's settings is the engine's, where the rest is a request's."""
    names = ("distiller", "push", "learn_tokens", "capture")
    return {name: getattr(esamp, name) for name in names}


def configure(llm: Any, esamp: ESamp, **settings: Any) -> None:
    """Set an armed engine to a method, and to what else is given of `EngineSettings`."""
    given = settings | of_engine(esamp)
    given["distiller"] = dataclasses.asdict(given["distiller"])
    llm.collective_rpc("esamp_configure", args=(given,))
