"""How likely a text is under a model: what evaluation knows of a scorer."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

OWN = "own"
"""Name of the scorer that is the sampled model itself; it prefers what that model prefers."""


class Scored(NamedTuple):
    """One text's likelihood."""

    nll: float
    """Negative log-likelihood of its tokens given the prompt, in nats."""
    tokens: int
    """How many tokens the scorer reads in it; 0 for an empty text, with nll 0."""


@runtime_checkable
class Scorer(Protocol):
    """A language model that reads samples."""

    def score(self, prompt: str, texts: Sequence[str], plain_text: bool) -> Sequence[Scored]:
        """Return the likelihood of each text after the prompt, without an end token.

        Args:
            prompt: What the samples continue or answer.
            texts: All samples of one group; the result depends on them and on nothing else.
            plain_text: Whether the texts continue the prompt as it stands, without a chat template.

        Raises:
            UsageError: A text does not fit into the scorer's context; nothing is cut silently.
        """
