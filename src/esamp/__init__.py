"""Exploratory Sampling: K samples of one prompt that differ in meaning.

    from esamp import ESamp, generate
    output = generate(model, **inputs, method=ESamp(beta=0.25), num_return_sequences=16)

Importing this package imports torch, and neither transformers nor vllm.
"""

from typing import TYPE_CHECKING

from esamp.distiller import MeanDistiller as MeanDistiller
from esamp.errors import EsampError as EsampError
from esamp.errors import InertWarning as InertWarning
from esamp.errors import MissingDependencyError as MissingDependencyError
from esamp.errors import ModelError as ModelError
from esamp.errors import UsageError as UsageError
from esamp.explorer import ESamp as ESamp
from esamp.explorer import Explorer as Explorer
from esamp.method import Vanilla as Vanilla
from esamp.mlp import MLPDistiller as MLPDistiller
from esamp.recursive import RecursiveDistiller as RecursiveDistiller

if TYPE_CHECKING:
    from esamp.backends.transformers import Decoding as Decoding
    from esamp.backends.transformers import generate as generate

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Load the Transformers backend when one of its two names is first asked for."""
    if name in ("Decoding", "generate"):
        import esamp.backends.transformers as backend

        return getattr(backend, name)
    raise AttributeError(f"module 'esamp' has no attribute {name!r}")
