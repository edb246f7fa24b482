"""From the word behind `--backend` to a generator."""

from collections.abc import Mapping
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
    from esamp.backends.transformers.load import demo_model
    from esamp.backends.vllm.generator import VllmGenerator

    with only_data_on_stdout(), model_loading():
        return VllmGenerator.load(
            model or demo_model(),
            dtype=choose_dtype(dtype),
            chat_template=chat_template,
            chat_template_kwargs=chat_template_kwargs,
        )
