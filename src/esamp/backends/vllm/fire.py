"""FIRE on vLLM: the first token is drawn here, and a request decodes the rest of each sample.

vLLM takes no temperature above 2. So it is asked for the likeliest first tokens of each prompt, of
which FIRE keeps a few anyway, and they are drawn from as Transformers rows are: the same seed gives
the same first token. The second request has it in its prompt; what is within FIRE, if it is ESamp,
steers from the third token on, since the first of a request never is steered. Samples of a prompt
share a group by name.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from esamp.baselines.fire import Fire
from esamp.errors import UsageError
from esamp.generation import Completion, Sampling
from esamp.sampling import Uniforms, draw, min_p, top_k, top_p


class Rest(NamedTuple):
    """What is left to decode of one sample."""

    prompt: int
    sample: int
    token_ids: list[int]
    """Prompt and first token."""
    extra: dict[str, Any]


def check_fire(fire: Fire, most: int) -> None:
    """Raise UsageError where an engine does not tell enough tokens' log-probabilities."""
    if not 1 <= fire.first_top_k <= most:
        raise UsageError(
            f"first_top_k is {fire.first_top_k}: on vLLM give 1 to {most}, or start the engine "
            "with a larger max_logprobs, or use --backend transformers"
        )


def draw_firsts(
    likeliest: Mapping[int, float], fire: Fire, sampling: Sampling, keys: Sequence[int]
) -> list[tuple[int, float]]:
    """Draw the first token of each sample of a prompt, and how likely it was.

    Args:
        likeliest: Log-probability of the likeliest tokens at temperature 1.
        fire: How many of them are kept, and how hot they are.
        sampling: Its truncation comes on top.
        keys: Of the samples' private streams.
    """
    # In the order of the vocabulary, as everywhere: the same uniform number means the same token.
    tokens = sorted(likeliest)
    scores = top_k(torch.tensor([[likeliest[token] for token in tokens]]), fire.first_top_k)
    scores = scores / fire.first_temperature
    scores = top_p(top_k(min_p(scores, sampling.min_p), sampling.top_k), sampling.top_p)
    drawn = draw(scores.repeat(len(keys), 1), Uniforms(keys).next())
    chosen = [tokens[place] for place in drawn.tokens.tolist()]
    return list(zip(chosen, drawn.logprobs.tolist(), strict=True))


def begin(
    drawn: Sequence[tuple[int, float]], ends: Collection[int], texts: Sequence[str]
) -> list[Completion]:
    """Return samples that have their first token; `texts` are those of the tokens."""
    return [
        Completion(
            text=text,
            token_ids=[token],
            finish_reason="stop" if token in ends else "length",
            logprobs=[logprob],
        )
        for (token, logprob), text in zip(drawn, texts, strict=True)
    ]


def unfinished(
    prompts: Sequence[Sequence[int]],
    firsts: Sequence[Sequence[Completion]],
    extra: dict[str, Any],
) -> list[Rest]:
    """Return the samples that go on after their first token.

    Args:
        prompts: As token ids.
        firsts: The first token of each sample.
        extra: What requests are to say.
    """
    rests = []
    for number, (prompt, samples) in enumerate(zip(prompts, firsts, strict=True)):
        mine = dict(extra)
        if mine.get("esamp_scope") == "prompt":
            del mine["esamp_scope"]
            mine["esamp_group"] = f"fire {number}"
        rests += [
            Rest(number, place, [*prompt, *sample.token_ids], mine)
            for place, sample in enumerate(samples)
            if sample.finish_reason == "length"
        ]
    return rests


def join(first: Completion, rest: Completion, text: str) -> Completion:
    """Return a sample from its two parts; `text` is that of all its tokens."""
    return Completion(
        text=text,
        token_ids=[*first.token_ids, *rest.token_ids],
        finish_reason=rest.finish_reason,
        logprobs=[*first.logprobs, *rest.logprobs],
    )
