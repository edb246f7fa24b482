"""A `Generator` on Transformers: text in, completions out."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.generation.streamers import BaseStreamer

from esamp.backends.text import ChatTemplate, check_room, pieces, prompt_texts
from esamp.backends.transformers.decode import generate
from esamp.backends.transformers.load import load
from esamp.backends.transformers.output import ESampOutput
from esamp.generation import (
    Completion,
    FinishReason,
    Generation,
    Progress,
    Request,
    Sampling,
    Stats,
)
from esamp.method import Method


@dataclass(frozen=True, kw_only=True)
class TransformersGenerator:
    """Decodes requests on one Transformers model."""

    model: PreTrainedModel
    tokenizer: Tokenizer
    chat_template: ChatTemplate = "auto"
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """What the template is told, such as `enable_thinking`."""

    @classmethod
    def load(
        cls,
        name: str | None = None,
        *,
        dtype: str = "auto",
        device: str = "auto",
        chat_template: ChatTemplate = "auto",
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> "TransformersGenerator":
        """Load a model by Hub id or path; None for the demo model.

        Raises:
            ModelError: The model cannot be found or read.
        """
        model, tokenizer = load(name, dtype, device)
        return cls(
            model=model,
            tokenizer=tokenizer,
            chat_template=chat_template,
            chat_template_kwargs=chat_template_kwargs or {},
        )

    def generate(
        self, request: Request, method: Method, progress: Progress | None = None
    ) -> Generation:
        """Return `request.samples` completions of every prompt.

        Raises:
            UsageError: A prompt does not fit into the model's context with what is to come.
            ModelError: The model's states cannot be read.
        """
        inputs = self._encode(request)
        # Greedy samples are all alike, and `generate` decodes one only.
        drawn = 1 if request.sampling.temperature == 0 else request.samples
        start = time.perf_counter()
        output = generate(
            self.model,
            **inputs,
            method=method,
            seed=request.seed,
            diagnostics=request.diagnostics,
            streamer=progress and _Reporter(progress, request.sampling.max_new_tokens),
            num_return_sequences=drawn,
            **_generate_arguments(request.sampling),
        )
        rows = self._completions(output, inputs["input_ids"].shape[1], request)
        seconds = time.perf_counter() - start
        groups = [
            rows[first : first + drawn] * (request.samples // drawn)
            for first in range(0, len(rows), drawn)
        ]
        return Generation(completions=groups, stats=_stats(output, seconds))

    def _encode(self, request: Request) -> Any:
        texts, special = prompt_texts(
            self.tokenizer, request.prompts, self.chat_template, self.chat_template_kwargs
        )
        inputs = self.tokenizer(
            texts,
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=special,
        )
        config = self.model.config.get_text_config(decoder=True)
        # Families with relative positions state none.
        context = getattr(config, "max_position_embeddings", None)
        check_room(inputs["input_ids"].shape[1], request.sampling.max_new_tokens, context)
        return inputs.to(self.model.device)

    def _completions(
        self, output: ESampOutput, prompt_tokens: int, request: Request
    ) -> list[Completion]:
        sequences = output.sequences[:, prompt_tokens:].tolist()
        lengths, nonfinite = output.lengths.tolist(), output.nonfinite.tolist()
        logprobs = output.logprobs.tolist()
        references = _lists(output.reference_logprobs)
        novelties = _lists(output.novelty)
        ends = self._end_tokens()
        completions = []
        for row, length in enumerate(lengths):
            tokens = sequences[row][:length]
            reason: FinishReason = "length"
            if nonfinite[row]:
                reason = "nonfinite"
            elif length < request.sampling.max_new_tokens or tokens[-1] in ends:
                reason = "stop"
            completions.append(
                Completion(
                    text=self.tokenizer.decode(tokens, skip_special_tokens=True),
                    token_ids=tokens,
                    finish_reason=reason,
                    logprobs=logprobs[row][:length],
                    reference_logprobs=None if references is None else references[row][:length],
                    novelty=None
                    if novelties is None
                    else [_none_if_nan(value) for value in novelties[row][:length]],
                )
            )
        return completions

    def pieces(self, token_ids: Sequence[int]) -> list[str]:
        """Return the text that each token adds, for showing tokens one by one."""
        return pieces(self.tokenizer, token_ids)

    def _end_tokens(self) -> list[int]:
        ends = self.model.generation_config.eos_token_id
        if ends is None:
            return []
        return [ends] if isinstance(ends, int) else list(ends)


class _Reporter(BaseStreamer):
    """Tells how far a call is; `generate` puts the prompt first, then one token per step."""

    def __init__(self, progress: Progress, steps: int) -> None:
        self._progress = progress
        self._steps = steps
        self._done = -1

    def put(self, value: Tensor) -> None:
        """Count one step."""
        self._done += 1
        self._progress(self._done / self._steps)

    def end(self) -> None:
        """Report the end, which may come before the last step."""
        self._progress(1.0)


NEUTRAL: Mapping[str, Any] = {
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "min_length": 0,
}
"""Said because `generate` takes from the model's own generation_config.json what is not said, and
arms are what they say, on both backends."""


def _generate_arguments(sampling: Sampling) -> dict[str, Any]:
    if sampling.temperature == 0:
        off = dict.fromkeys(("temperature", "top_p", "top_k", "min_p"))
        return {"do_sample": False, "max_new_tokens": sampling.max_new_tokens, **off, **NEUTRAL}
    return {
        **NEUTRAL,
        "do_sample": True,
        "max_new_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p or None,
    }


def _stats(output: ESampOutput, seconds: float) -> Stats:
    errors = _lists(output.distiller_error) or []
    return Stats(
        tokens=int(output.lengths.sum()),
        seconds=seconds,
        distiller_error=[_none_if_nan(error) for error in errors],
        nonfinite_rows=int(output.nonfinite_rows),
        kl=_mean_of_steered(output.kl),
        entropy=_mean_of_steered(output.entropy),
        reference_entropy=_mean_of_steered(output.reference_entropy),
    )


def _mean_of_steered(table: Float[Tensor, "rows tokens"] | None) -> float | None:
    """Return the mean over all tokens but first ones; None if there is none."""
    return None if table is None else _none_if_nan(table[:, 1:].nanmean().item())


def _lists(table: Tensor | None) -> Any:
    return None if table is None else table.tolist()


def _none_if_nan(value: float) -> float | None:
    return None if value != value else value
