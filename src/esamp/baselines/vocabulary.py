"""A distiller trained in vocabulary space: the paper's network, with another loss.

    L = mean over rows of KL(softmax(W·deep) ‖ softmax(W·predicted))       W: the frozen LM head

Prediction, fusion, network and Adam are ESamp's; its own loss is ‖deep − predicted‖². The paper
(tables 10 and 11) finds this one far worse than plain sampling: what is equally likely next may
differ in meaning. The temperature is left out of the loss. Two more products with W a step.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from esamp.errors import ModelError, UsageError
from esamp.explorer import ESamp, Explorer
from esamp.method import Call, Projection, Wrapper
from esamp.mlp import MLPBank, MLPDistiller

PAPER = ESamp.paper()


@dataclass(frozen=True, kw_only=True)
class VocabularySpace(Wrapper):
    """ESamp with a distiller that learns the model's logits instead of its states."""

    esamp: ESamp = PAPER
    """Where strength, network and the rest come from; the distiller is an `MLPDistiller`."""

    def __post_init__(self) -> None:
        if not isinstance(self.esamp.distiller, MLPDistiller):
            raise UsageError(
                f"distiller is {self.esamp.distiller.name!r}: only mlp learns by gradients, which "
                "a loss on logits needs"
            )

    @property
    def name(self) -> str:
        """Name in tables and on the command line."""
        return "vocabulary"

    @property
    def within(self) -> ESamp:
        """Where the rest comes from."""
        return self.esamp

    def start(self, call: Call) -> "VocabularyExplorer":
        """Return fresh distillers.

        Raises:
            ModelError: The model's head cannot be used by itself.
        """
        if call.head is None:
            raise ModelError(
                "this model's logits are not those of its head with at most a scale and a cap, or "
                "this backend shows no head: the vocabulary-space distiller cannot learn from them"
            )
        return VocabularyExplorer(self.esamp, call, call.head)


class VocabularyExplorer(Explorer):
    """An explorer whose bank knows the head."""

    def __init__(self, settings: ESamp, call: Call, head: Projection) -> None:
        super().__init__(settings, call.capacity, call.hidden, call.device)
        assert isinstance(settings.distiller, MLPDistiller), "the method has checked it"
        self.bank = VocabularyBank(settings.distiller, call, head)


class VocabularyBank(MLPBank):
    """The paper's networks, trained on what the head makes of their predictions."""

    def __init__(self, settings: MLPDistiller, call: Call, head: Projection) -> None:
        super().__init__(settings, call.capacity, call.hidden, call.device)
        self._head = head

    def _loss(
        self,
        predicted: Float[Tensor, "groups places hidden"],
        deep: Float[Tensor, "groups places hidden"],
    ) -> Float[Tensor, "groups places"]:
        """Return the divergence of each row's distribution from the one that its state gives."""
        reference, distilled = self._logprobs(deep), self._logprobs(predicted)
        divergence: Tensor = (reference.exp() * (reference - distilled)).sum(dim=-1)
        return divergence.view(deep.shape[:-1])

    def _logprobs(
        self, states: Float[Tensor, "groups places hidden"]
    ) -> Float[Tensor, "places_of_all vocab"]:
        return self._head(states.flatten(0, 1)).log_softmax(dim=-1)
