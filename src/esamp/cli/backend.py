"""From the word behind `--backend` to a generator."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esamp.backends.precision import choose_dtype
from esamp.backends.text import ChatTemplate
from esamp.cli.console import model_loading, only_data_on_stdout
from esamp.cli.settings import BackendName
from esamp.generation import SpeakingGenerator


def load_generator(
    backend: BackendName,
    model: str | None,
    dtype: str,
    chat_template: ChatTemplate,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> SpeakingGenerator:
    """Load a model on a backend; None for the demo model.

    Raises:
        ModelError: The model cannot be found, read or steered.
        MissingDependencyError: The backend is not installed.
    """
    if backend == "transformers":
        from esamp.backends.transformers.generator import TransformersGenerator

        with model_loading():
            return TransformersGenerator.load(
                model,
                dtype=dtype,
                chat_template=chat_template,
                chat_template_kwargs=chat_template_kwargs,
            )
    from esamp.backends.vllm.generator import VllmGenerator

    with only_data_on_stdout(), model_loading():
        return VllmGenerator.load(
            model or demo_model(),
            dtype=choose_dtype(dtype),
            chat_template=chat_template,
            chat_template_kwargs=chat_template_kwargs,
        )


def demo_model() -> str:
    """Return the demo model as vLLM reads it: a folder of ours, or its Hub id without the wheel."""
    from esamp.backends.transformers.load import DEMO_MODEL, demo_gguf, save_demo_model

    if demo_gguf() is None:
        return DEMO_MODEL
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "esamp"
    folder = cache / "SmolLM2-135M-Instruct"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        # Whole or not at all: it may be interrupted, or run twice at a time.
        fresh = Path(tempfile.mkdtemp(dir=cache))
        try:
            save_demo_model(fresh)
            fresh.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return str(folder)
