"""Decoding on Hugging Face Transformers (5.16 and newer)."""

try:
    import transformers as _transformers  # noqa: F401
except ImportError as error:
    from esamp.errors import MissingDependencyError

    raise MissingDependencyError(
        "decoding on Transformers needs the package transformers: pip install 'esamp[transformers]'"
    ) from error

from esamp.backends.transformers.decode import Decoding as Decoding
from esamp.backends.transformers.decode import generate as generate
from esamp.backends.transformers.output import ESampOutput as ESampOutput
