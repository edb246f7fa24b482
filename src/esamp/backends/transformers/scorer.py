"""A scorer on Transformers: the likelihood of samples under a causal language model.

The prompt is read once for all samples of a batch, then the samples in pieces, so that no more than
`LOGITS` logits exist at a time, whatever the vocabulary. Pieces go through the model's own forward
and its cache: what a family does to its logits (a scale, a cap) is done to these.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from esamp.backends.text import ChatTemplate, prompt_texts
from esamp.backends.transformers.load import load
from esamp.backends.transformers.session import name_of_cache
from esamp.errors import ModelError, UsageError
from esamp.evals.scoring import Scored

ROWS = 8
"""Samples of a batch. Fixed, and no setting: results may depend on it in the last bits."""

LOGITS = 2**25
"""Most logits that exist at a time: 134 MB in fp32, three times that at the peak."""


@dataclass(frozen=True, kw_only=True)
class TransformersScorer:
    """Reads samples with one Transformers model.

    Samples of a call are read in batches of eight in order of their length, so a result depends on
    the call's prompt and texts and on no other call. Tokens are the scorer's own: the text is
    encoded anew, apart from the prompt, and no end token is counted.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer
    own: bool = False
    """Whether it is the sampled model, which sees what the generator saw. Another model sees the
    prompt, an empty line and the text."""
    chat_template: ChatTemplate = "auto"
    """How prompts were shown to the sampled model; no matter for another one."""
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Likewise."""

    @classmethod
    def load(
        cls,
        name: str | None = None,
        *,
        own: bool = False,
        dtype: str = "auto",
        device: str = "auto",
        chat_template: ChatTemplate = "auto",
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> "TransformersScorer":
        """Load a model by Hub id, folder or .gguf file; None for the demo model.

        Raises:
            UsageError: The dtype is unknown.
            ModelError: The model cannot be found or read.
        """
        model, tokenizer = load(name, dtype, device)
        return cls(
            model=model,
            tokenizer=tokenizer,
            own=own,
            chat_template=chat_template,
            chat_template_kwargs=chat_template_kwargs or {},
        )

    @torch.no_grad()
    def score(self, prompt: str, texts: Sequence[str], plain_text: bool) -> list[Scored]:
        """Return each text's negative log-likelihood after the prompt, in nats, and its tokens.

        Args:
            prompt: What the texts continue or answer.
            texts: All samples of one group.
            plain_text: Whether they continue the prompt as it stands.

        Raises:
            UsageError: A text does not fit into the model's context after its prompt, or the prompt
                has no token to start from.
            ModelError: The model gives what is no likelihood.
        """
        head = self._encode_prompt(prompt, plain_text)
        tokens = [
            self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
            for text in texts
        ]
        self._check_room(len(head), max(map(len, tokens), default=0))
        scores = [Scored(0.0, 0)] * len(texts)
        # Texts of one length go together, so that little is padding.
        order = [
            row for row in sorted(range(len(texts)), key=lambda r: len(tokens[r])) if tokens[row]
        ]
        start = self._read_prompt(head) if order else None
        for first in range(0, len(order), ROWS):
            rows = order[first : first + ROWS]
            assert start is not None, "there is a text to read"
            values = self._read(start, [tokens[row] for row in rows])
            for row, value in zip(rows, values.tolist(), strict=True):
                scores[row] = Scored(-value, len(tokens[row]))
        return scores

    def _encode_prompt(self, prompt: str, plain_text: bool) -> list[int]:
        if self.own:
            template: ChatTemplate = "none" if plain_text else self.chat_template
            (text,), special = prompt_texts(
                self.tokenizer, [prompt], template, self.chat_template_kwargs
            )
        else:
            text, special = prompt if plain_text else prompt + "\n\n", True
        head: list[int] = self.tokenizer(text, add_special_tokens=special)["input_ids"]
        if not head:
            raise UsageError(
                f"prompt {prompt!r} has no token under the scorer, so a text's first token has "
                "nothing to follow: give some text"
            )
        return head

    def _check_room(self, prompt: int, longest: int) -> None:
        config = self.model.config.get_text_config(decoder=True)
        # Families with relative positions state none.
        context = getattr(config, "max_position_embeddings", None)
        if context is not None and prompt + longest > context:
            raise UsageError(
                f"a sample has {longest} tokens after a prompt of {prompt} and the scorer's "
                f"context is {context}: choose a scorer with a longer one, or lower "
                "--max-new-tokens"
            )

    def _read_prompt(self, head: Sequence[int]) -> Any:
        ids = torch.tensor([head], device=self.model.device)
        return self.model(input_ids=ids, use_cache=True, logits_to_keep=1)

    def _name_of_cache(self, shown: Mapping[str, Any]) -> str:
        name = name_of_cache(shown)
        if name is None:
            raise ModelError(
                f"scorer {type(self.model).__name__} keeps no cache that samples could share: give "
                "another model"
            )
        return name

    def _read(self, start: Any, texts: Sequence[Sequence[int]]) -> Float[Tensor, " rows"]:
        """Return the total log-probability of each text after the prompt.

        Padding stands behind a text, where causal attention does not look, and is not counted.
        """
        rows, longest = len(texts), max(map(len, texts))
        device = self.model.device
        lengths = torch.tensor([len(text) for text in texts], device=device)
        padded = [[*text, *[text[-1]] * (longest - len(text))] for text in texts]
        ids = torch.tensor(padded, device=device)
        name = self._name_of_cache(start)
        cache = copy.deepcopy(start[name])
        cache.batch_repeat_interleave(rows)
        # What the prompt's last token says of the texts' first ones.
        logprobs = [token_logprobs(start.logits[:, -1:].expand(rows, -1, -1), ids[:, :1])]
        piece = max(1, LOGITS // (rows * start.logits.shape[-1]))
        # The last token of all predicts nothing that is counted.
        for first in range(0, longest - 1, piece):
            last = min(first + piece, longest - 1)
            shown = self.model(input_ids=ids[:, first:last], use_cache=True, **{name: cache})
            cache = shown[name]
            logprobs.append(token_logprobs(shown.logits, ids[:, first + 1 : last + 1]))
        counted = torch.arange(longest, device=device) < lengths[:, None]
        totals = torch.where(counted, torch.cat(logprobs, dim=1), 0).double().sum(dim=1)
        if not torch.isfinite(totals).all():
            raise ModelError(
                f"scorer {type(self.model).__name__} gives likelihoods that are not finite: its "
                "weights are damaged, or do not fit its dtype; load them again, or try float32"
            )
        return totals


def token_logprobs(
    logits: Float[Tensor, "rows tokens vocab"], ids: Int[Tensor, "rows tokens"]
) -> Float[Tensor, "rows tokens"]:
    """Return the log-probability of each token under its logits, in fp32."""
    # The largest logit goes first: a difference of two large numbers would lose digits.
    logits = logits.float() - logits.amax(dim=-1, keepdim=True)
    chosen: Tensor = logits.gather(-1, ids[..., None])[..., 0]
    return chosen - logits.exp_().sum(dim=-1).log_()
