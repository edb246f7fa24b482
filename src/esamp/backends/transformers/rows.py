"""Which rows of a call belong together, and the numbers that each draws."""

import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from esamp.backends.transformers.inputs import is_text
from esamp.errors import UsageError
from esamp.explorer import check_beta
from esamp.method import Scope
from esamp.sampling import Uniforms, row_key


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The samples of a call, in the order of the batch."""

    prompts: Sequence[tuple[int, ...]]
    """Prompt of each row, without padding."""
    prompt_of: Sequence[int]
    """Number of each row's prompt; equal prompts have one number."""
    tokens_are_all: bool
    """Whether a prompt's tokens say all there is of it."""

    @classmethod
    def of(
        cls,
        input_ids: Int[Tensor, "rows prompt"],
        samples: int,
        model_kwargs: Mapping[str, Any],
    ) -> "Rows":
        """Read rows off the inputs that `generate` has prepared.

        `num_return_sequences` copies of a prompt lie next to each other. Prompts that were given
        several times are one prompt too, as when a harness clones its requests.
        """
        mask = model_kwargs.get("attention_mask")
        # The mask may be longer: it covers a cached part, or embeddings given in place of tokens.
        length = input_ids.shape[1]
        keep = torch.ones_like(input_ids) if mask is None else mask[:, mask.shape[1] - length :]
        prompts = [
            tuple(token for token, kept in zip(ids, kept_row, strict=True) if kept)
            for ids, kept_row in zip(input_ids.tolist(), keep.tolist(), strict=True)
        ]
        resumes = any(
            isinstance(value, Cache) and value.get_seq_length() > 0
            for value in model_kwargs.values()
        )
        tokens_are_all = length > 0 and is_text(model_kwargs) and not resumes
        numbers: dict[object, int] = {}
        identities = [
            prompt if tokens_are_all else row // samples for row, prompt in enumerate(prompts)
        ]
        return cls(
            prompts=prompts,
            prompt_of=[numbers.setdefault(identity, len(numbers)) for identity in identities],
            tokens_are_all=tokens_are_all,
        )

    def groups(self, scope: Scope) -> list[int]:
        """Return the group of each row."""
        if scope == "shared":
            return [0] * len(self.prompt_of)
        if scope == "sample":
            return list(range(len(self.prompt_of)))
        return list(self.prompt_of)

    def uniforms(self, seed: int, device: torch.device) -> Uniforms:
        """Return the streams of numbers that the rows draw with."""
        seen: Counter[int] = Counter()
        keys = []
        for prompt, number in zip(self.prompts, self.prompt_of, strict=True):
            # Where tokens do not tell prompts apart, their order in the batch has to.
            told = prompt if self.tokens_are_all else (*prompt, -1 - number)
            keys.append(row_key(seed, told, seen[number]))
            seen[number] += 1
        return Uniforms(keys, device)


def choose_seed(seed: SupportsIndex | None) -> int:
    """Return the call's seed; without one, draw it from torch's global generator, once."""
    if seed is None:
        return int(torch.randint(2**63 - 1, ()))
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number < 2**63:
        raise UsageError(f"esamp_seed is {seed!r}: give a whole number from 0 to 2^63 - 1")
    return number


Betas = float | Sequence[float] | Tensor | None
"""β for all prompts, or one per prompt; None leaves it to the method."""


def row_betas(
    beta: Betas, rows: int, samples: int, device: torch.device
) -> Float[Tensor, " rows"] | None:
    """Return β of each row.

    Raises:
        UsageError: A number is negative or not finite, or there are not as many as prompts.
    """
    if beta is None:
        return None
    if isinstance(beta, Tensor):
        beta = beta.tolist()
    prompts = rows // samples
    per_prompt = list(beta) if isinstance(beta, Sequence) else [beta] * prompts
    if len(per_prompt) != prompts:
        raise UsageError(
            f"esamp_beta has {len(per_prompt)} values for {prompts} prompts: give one number for "
            "all, or one per prompt"
        )
    for each in per_prompt:
        check_beta(each)
    values = torch.tensor(per_prompt, dtype=torch.float32, device=device)
    return values.repeat_interleave(samples)
