"""The model's side of a call: forward passes, the cache, and which rows are in the batch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.utils import ModelOutput

from esamp.backends.transformers.inputs import find_copies, is_text, select_rows
from esamp.backends.transformers.states import Choose, Reads, Taps
from esamp.fusion import fit
from esamp.layout import Layout
from esamp.method import Call, Push, Steering, Step

DROP_SHARE = 0.25
"""Finished share of the batch from which finished rows leave it; that costs a copy of the cache."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What one forward pass gave, for the rows in the batch."""

    step: Step
    push: Push | None
    logits: Float[Tensor, "active vocab"]
    """Logits of the states that the head was told to read."""
    reference: Float[Tensor, "active vocab"] | None
    """Logits of the model's own states, where a second projection was asked for."""


def is_selectable(cache: Cache | None) -> bool:
    """Return whether rows can leave a cache: a plain dynamic one."""
    if cache is None or type(cache) is not DynamicCache:
        return False
    if getattr(cache, "offloading", False):  # layers are under way between devices
        return False
    return all(type(each) in (DynamicLayer, DynamicSlidingWindowLayer) for each in cache.layers)


def name_of_cache(values: Mapping[str, Any]) -> str | None:
    """Return what this Transformers calls the cache, in what a model is given or gives."""
    return next((name for name, value in values.items() if isinstance(value, Cache)), None)


def find_cache(model_kwargs: Mapping[str, Any]) -> Cache | None:
    """Return the cache, under whatever name the model gives it."""
    name = name_of_cache(model_kwargs)
    return None if name is None else model_kwargs[name]


class Session:
    """A model with its inputs, from prefill to the last token.

    All rows of the call are counted in the batch's first order; `active` says which of them the
    model still computes, None: all.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        taps: Taps,
        call: Call,
        config: GenerationConfig,
        model_kwargs: dict[str, Any],
        *,
        share_prompts: bool,
    ) -> None:
        self._model = model
        self._taps = taps
        self._call = call
        self._config = config
        self._kwargs = model_kwargs
        self._share_prompts = share_prompts
        self.active: Int[Tensor, " active"] | None = None
        self.size = len(call.groups)
        self._samples = torch.arange(self.size, device=call.device)
        self._layout = Layout.of(call.groups, call.capacity, call.device)
        self._positions = torch.zeros(self.size, dtype=torch.long, device=call.device)
        self._drawn = 0
        self._started = False
        # A cache that the user gave stays the user's: no rows leave it. Older Transformers do not
        # mark it, but one of their own is empty at this point.
        cache = self.cache
        self._cache_is_given = cache is not None and (
            cache.get_seq_length() > 0 or getattr(cache, "_is_user_defined", False)
        )
        self.outputs = ModelOutput()

    def of_active(self, values: Tensor) -> Tensor:
        """Return the values of the rows in the batch, from those of all rows."""
        return values if self.active is None else values[self.active]

    def of_all(self, values: Tensor, missing: int | float) -> Tensor:
        """Return values of all rows; those that have left the batch get `missing`."""
        if self.active is None:
            return values
        everyone = values.new_full((len(self._call.groups), *values.shape[1:]), missing)
        return everyone.index_copy_(0, self.active, values)

    def show(
        self,
        input_ids: Int[Tensor, "rows tokens"],
        unfinished: Bool[Tensor, " rows"],
        beta: Float[Tensor, " rows"] | None,
        steering: Steering,
        read: Callable[[Push | None], Reads],
    ) -> Shown:
        """Run the model up to its logits.

        The method steers within this pass, since the head is part of it.
        """
        seen: tuple[Step, Push | None, Reads] | None = None

        def choose(
            shallow: Float[Tensor, "active hidden"], deep: Float[Tensor, "active hidden"]
        ) -> Reads:
            nonlocal seen
            step = Step(
                shallow=shallow.float(),
                deep=deep.float(),
                samples=self._samples,
                positions=self._positions,
                unfinished=self.of_active(unfinished).to(deep.device),
                layout=self._layout,
                beta=None if beta is None else self.of_active(beta),
                least_drawn=self._drawn,
            )
            push = steering.steer(step)
            push = None if push is None else fit(push, step, deep.dtype)
            reads = read(push)
            seen = step, push, reads
            return reads

        run = self._forward if self._started else self._prefill
        self._started = True
        self.outputs = run(input_ids, choose)
        assert seen is not None, "the head runs in every forward pass"
        step, push, reads = seen
        self._kwargs = self._model._update_model_kwargs_for_generation(self.outputs, self._kwargs)
        logits: Float[Tensor, "active positions vocab"] = self.outputs.logits
        # A view of many would keep the logits of a whole prefill alive.
        many = logits.shape[1] > 2
        logits = logits[:, -2:].to(input_ids.device, torch.float32, copy=many)
        both = reads.states is not None and reads.reference
        return Shown(
            step=step,
            push=push,
            logits=logits[:, -1],
            reference=logits[:, 0] if both else None,
        )

    def _prefill(self, input_ids: Int[Tensor, "rows tokens"], choose: Choose) -> ModelOutput:
        """Run the model on the prompts, on each once if the cache allows to copy it."""
        copies = find_copies(input_ids, self._kwargs) if self._can_share() else None
        if copies is None:
            with self._taps.armed(choose):
                return self._model._prefill(input_ids, self._config, self._kwargs)
        kwargs = select_rows(self._kwargs, copies.first)
        with self._taps.armed(choose, copies.of):
            outputs = self._model._prefill(input_ids[copies.first], self._config, kwargs)
        self._selectable.batch_select_indices(copies.of)
        return outputs

    def _forward(self, input_ids: Int[Tensor, "rows tokens"], choose: Choose) -> ModelOutput:
        """Run the model on each row in the batch: its last token, or all of it without a cache."""
        inputs = self._model.prepare_inputs_for_generation(
            self.of_active(input_ids),
            next_sequence_length=1 if self._kwargs["use_cache"] else None,
            **self._kwargs,
        )
        with self._taps.armed(choose):
            return self._model(**inputs, return_dict=True)

    def advance(self) -> None:
        """Count the token that every row has drawn."""
        self._positions += 1
        self._drawn += 1

    @property
    def cache(self) -> Cache | None:
        """The cache of this call."""
        return find_cache(self._kwargs)

    def can_select(self) -> bool:
        """Whether rows can leave or be copied: a plain dynamic cache of our own, and text only."""
        return is_selectable(self.cache) and not self._cache_is_given and is_text(self._kwargs)

    def _can_share(self) -> bool:
        shown = ("output_attentions", "output_hidden_states")
        wanted = any(self._kwargs.get(name) for name in shown)  # of each row
        return self._share_prompts and not wanted and self.can_select()

    @property
    def _selectable(self) -> Cache:
        assert self.cache is not None, "can_select has seen it"
        return self.cache

    def drop_finished(self, unfinished: Bool[Tensor, " rows"], remaining: int) -> None:
        """Take finished rows out of the batch, if enough have gathered and the cache allows it."""
        if remaining > (1 - DROP_SHARE) * self.size or not self.can_select():
            return
        keep = self.of_active(unfinished).nonzero()[:, 0]
        self.active = keep if self.active is None else self.active[keep]
        self.size = remaining
        self._selectable.batch_select_indices(keep.cpu())  # layers may live on several devices
        self._kwargs = select_rows(self._kwargs, keep)
        here = keep.to(self._call.device)
        self._samples, self._positions = self._samples[here], self._positions[here]
        groups = [self._call.groups[sample] for sample in self._samples.tolist()]
        self._layout = Layout.of(groups, self._call.capacity, self._call.device)
