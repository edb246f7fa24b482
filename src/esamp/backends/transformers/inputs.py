"""What a model is given beside the tokens of each row: some rows of it, and rows that are alike."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

PER_ROW = ("attention_mask", "position_ids", "token_type_ids")
"""What a model is given with every row of tokens, beside the tokens."""

TEXT_INPUTS = frozenset(PER_ROW) | {
    *("use_cache", "past_key_values", "cache", "cache_position"),
    *("logits_to_keep", "output_attentions", "output_hidden_states"),
}


def is_text(model_kwargs: Mapping[str, Any]) -> bool:
    """Return whether a model is given text only.

    Two prompts with the same tokens are the same prompt only where tokens are all there is.
    """
    # Models that also see are given a dictionary of what they saw, which is empty for text.
    nothing = {
        name
        for name, value in model_kwargs.items()
        if value is None or (isinstance(value, Mapping) and not value)
    }
    return set(model_kwargs) - nothing <= TEXT_INPUTS


def select_rows(model_kwargs: Mapping[str, Any], rows: Int[Tensor, " some"]) -> dict[str, Any]:
    """Return what a model is given, of some rows only; the cache is left as it is."""
    # Rows are the axis before the last: some families have several positions for each token.
    return dict(model_kwargs) | {
        name: model_kwargs[name].index_select(-2, rows.to(model_kwargs[name].device))
        for name in PER_ROW
        if model_kwargs.get(name) is not None
    }


class Copies(NamedTuple):
    """Rows that are the same, as those of one prompt are before they have drawn a token.

    Both stay on the CPU: layers of one cache may live on several devices, and all take that.
    """

    first: Int[Tensor, " distinct"]
    """One row of each kind."""
    of: Int[Tensor, " rows"]
    """The place in `first` of each row's kind."""


def find_copies(
    input_ids: Int[Tensor, "rows tokens"], model_kwargs: Mapping[str, Any]
) -> Copies | None:
    """Find rows that a model is given more than once; None: there are none."""
    beside = [model_kwargs[name] for name in PER_ROW if model_kwargs.get(name) is not None]
    parts = [each.movedim(-2, 0).flatten(1).cpu() for each in (input_ids, *beside)]
    _, of = torch.unique(torch.cat(parts, dim=1), dim=0, return_inverse=True)
    rows = torch.arange(len(of))
    first = torch.full((int(of.max()) + 1,), len(of)).scatter_reduce_(0, of, rows, "amin")
    if len(first) == len(of):
        return None
    return Copies(first, of)
