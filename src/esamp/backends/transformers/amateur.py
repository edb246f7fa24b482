"""A second model that reads along: the amateur of contrastive decoding.

It has the model's tokens, a cache of its own, and the rows of the call. Rows that have left the
model's batch leave here too, where the cache allows it.
"""

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from esamp.backends.precision import DTYPES
from esamp.backends.transformers.inputs import select_rows
from esamp.backends.transformers.load import load
from esamp.backends.transformers.session import find_cache, is_selectable
from esamp.backends.transformers.states import describe_head
from esamp.errors import ModelError
from esamp.layout import upload
from esamp.method import Step

PADDING_SHARE = 0.02
"""Models of one tokenizer differ by a few rows of padding in their vocabularies, not by more."""


def follow(model: PreTrainedModel, prompts: Sequence[Sequence[int]], name: str) -> "Amateur":
    """Let the model of that name read along.

    Args:
        model: The one that is decoded from.
        prompts: Prompt of each sample, as token ids without padding.
        name: Hub id or local path of the other one.

    Raises:
        ModelError: It cannot be loaded, or has another vocabulary.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    other = _load(name, names.get(model.dtype, "float32"), str(describe_head(model).device))
    vocab, theirs = (_vocab(each) for each in (model, other))
    if abs(vocab - theirs) > PADDING_SHARE * max(vocab, theirs):
        raise ModelError(
            f"amateur {name!r} has {theirs} tokens and the model has {vocab}: give a model with "
            "the same tokenizer, usually a smaller one of the same family"
        )
    return Amateur(other, prompts, vocab)


@functools.lru_cache(maxsize=1)
def _load(name: str, dtype: str, device: str) -> PreTrainedModel:
    """Load once: every call of a run asks for it."""
    return load(name, dtype, device)[0]


def _vocab(model: PreTrainedModel) -> int:
    size: int = model.config.get_text_config(decoder=True).vocab_size
    return size


class Amateur:
    """A model and its inputs, from the prompts on."""

    def __init__(
        self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], vocab: int
    ) -> None:
        self._model = model
        self._vocab = vocab
        device = model.device
        width = max(map(len, prompts))
        gaps = [width - len(prompt) for prompt in prompts]
        rows = [[0] * gap + list(prompt) for gap, prompt in zip(gaps, prompts, strict=True)]
        self._inputs = upload(rows, torch.long, device)
        mask = upload([[0] * gap + [1] * (width - gap) for gap in gaps], torch.long, device)
        self._kwargs: dict[str, Any] = {"attention_mask": mask, "use_cache": True}
        accepted = inspect.signature(model.forward).parameters
        if "position_ids" in accepted:
            self._kwargs["position_ids"] = (mask.cumsum(dim=-1) - 1).clamp(min=0)
        if "logits_to_keep" in accepted:
            self._kwargs["logits_to_keep"] = 1
        self._tokens = torch.zeros(len(prompts), dtype=torch.long, device=device)
        self._samples = torch.arange(len(prompts), device=device)
        self._row_of = self._samples.clone()
        self._started = False

    def logits(self, step: Step) -> Float[Tensor, "rows vocab"]:
        """Return the logits for the next token of each row; −inf for tokens it lacks."""
        samples = step.samples.to(self._samples.device)
        self._drop(samples)
        inputs = self._tokens[self._samples][:, None] if self._started else self._inputs
        prepared = self._model.prepare_inputs_for_generation(
            inputs, next_sequence_length=1 if self._started else None, **self._kwargs
        )
        outputs = self._model(**prepared, return_dict=True)
        self._started = True
        self._kwargs = self._model._update_model_kwargs_for_generation(outputs, self._kwargs)
        logits: Tensor = outputs.logits[:, -1]
        if len(samples) < len(self._samples):
            logits = logits[self._row_of[samples]]
        missing = self._vocab - logits.shape[-1]
        logits = logits[:, : self._vocab].to(step.deep.device, torch.float32)
        return torch.nn.functional.pad(logits, (0, max(missing, 0)), value=-torch.inf)

    def read(self, step: Step, tokens: Int[Tensor, " rows"]) -> None:
        """Take the tokens that were drawn; they go through the model with the next step."""
        device = self._tokens.device
        self._tokens.index_copy_(0, step.samples.to(device), tokens.to(device))

    def _drop(self, samples: Int[Tensor, " rows"]) -> None:
        """Let rows leave that are no longer asked for."""
        cache = find_cache(self._kwargs)
        if len(samples) == len(self._samples) or cache is None or not is_selectable(cache):
            return
        keep = self._row_of[samples]
        cache.batch_select_indices(keep)
        self._kwargs = select_rows(self._kwargs, keep)
        self._samples = samples
        self._row_of.index_copy_(0, samples, torch.arange(len(samples), device=samples.device))
