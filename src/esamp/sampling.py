"""Truncation as pure functions in logit space, and the draw: one uniform number per row and token.

Every method and backend of esamp draws here, so that two arms differ in their logits and in nothing
else. Not here: temperature and penalties, which are the engine's.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from esamp.errors import UsageError

NEG_INF = float("-inf")


def top_k(logits: Float[Tensor, "rows vocab"], k: int) -> Float[Tensor, "rows vocab"]:
    """Keep the k largest logits of each row, and those equal to the k-th; 0 keeps all."""
    if k < 0:
        raise UsageError(f"top_k is {k}: give 0 (off) or a positive number of tokens")
    if k == 0 or k >= logits.shape[-1]:
        return logits
    threshold = logits.topk(k, dim=-1).values[:, -1:]
    return logits.masked_fill(logits < threshold, NEG_INF)


def top_p(logits: Float[Tensor, "rows vocab"], p: float) -> Float[Tensor, "rows vocab"]:
    """Keep the fewest most likely tokens whose probabilities add up to p; 1 keeps all."""
    if not 0 < p <= 1:
        raise UsageError(f"top_p is {p}: give a number above 0 and at most 1 (1: off)")
    if p == 1:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    # A token stays if those before it have not reached p: the first always stays.
    cut = probabilities.cumsum(dim=-1) - probabilities >= p
    return logits.masked_fill(torch.zeros_like(cut).scatter(-1, order, cut), NEG_INF)


def min_p(logits: Float[Tensor, "rows vocab"], p: float) -> Float[Tensor, "rows vocab"]:
    """Keep tokens at least p times as likely as the most likely one; 0 keeps all."""
    if not 0 <= p <= 1:
        raise UsageError(f"min_p is {p}: give a number from 0 (off) to 1")
    if p == 0:
        return logits
    threshold = logits.amax(dim=-1, keepdim=True) + torch.tensor(p, dtype=logits.dtype).log()
    return logits.masked_fill(logits < threshold, NEG_INF)


class Drawn(NamedTuple):
    """One token per row, and how likely it was."""

    tokens: Int[Tensor, " rows"]
    logprobs: Float[Tensor, " rows"]
    """Log-probability under the scores drawn from; NaN for a row without a finite score."""


def draw(scores: Float[Tensor, "rows vocab"], uniforms: Float[Tensor, " rows"]) -> Drawn:
    """Draw one token per row by inverting the cumulative distribution of softmax(scores).

    Args:
        scores: Logits, fp32, −inf where a token is cut away.
        uniforms: A number in [0, 1) per row.
    """
    top = scores.amax(dim=-1, keepdim=True)
    cumulative = (scores - top).exp_().cumsum_(dim=-1)
    total = cumulative[:, -1]
    # u is at most 1 − 2⁻²⁴, and u·total then rounds below total for every fp32 total: so the first
    # entry above it exists, and belongs to a token with some probability.
    targets = uniforms * total
    tokens = torch.searchsorted(cumulative, targets[:, None], right=True)
    tokens.clamp_(max=scores.shape[-1] - 1)  # only rows that are NaN throughout reach this
    logprobs = (scores.gather(-1, tokens) - top)[:, 0] - total.log()
    return Drawn(tokens[:, 0], logprobs)


def pick_best(scores: Float[Tensor, "rows vocab"]) -> Drawn:
    """Take the most likely token of each row."""
    tokens = scores.argmax(dim=-1)
    logprobs = scores.log_softmax(dim=-1).gather(-1, tokens[:, None])[:, 0]
    return Drawn(tokens, logprobs)


class Uniforms:
    """A private stream of uniform numbers for each row.

    A row's stream depends on the seed, its prompt and its number among that prompt's samples: not
    on its place in the batch, nor on what else runs. The numbers are drawn on the CPU, so they are
    the same on every device.
    """

    BLOCK = 64
    """Tokens drawn ahead, so that the loop over rows runs once in a while only."""

    def __init__(self, keys: Sequence[int], device: torch.device | str = "cpu") -> None:
        self._generators = [torch.Generator().manual_seed(key) for key in keys]
        self._device = device
        self._position = 0
        self._block = torch.empty(0)

    def next(self) -> Float[Tensor, " rows"]:
        """Return the next number of every row, in [0, 1)."""
        place = self._position % self.BLOCK
        if place == 0:
            columns = [torch.rand(self.BLOCK, generator=each) for each in self._generators]
            self._block = torch.stack(columns, dim=1).to(self._device)
        self._position += 1
        return self._block[place]


def row_key(seed: int, prompt: Sequence[int], sample: int) -> int:
    """Return the seed of one row's stream, mixed from call seed, prompt and sample number."""
    text = f"{seed}|{sample}|{','.join(map(str, prompt))}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
