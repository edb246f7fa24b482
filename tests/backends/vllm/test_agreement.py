"""Transformers and vLLM agree: the same tokens, forced, have the same fused logits."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList

from esamp import ESamp, generate

from .engines import add, needs_vllm

pytestmark = [needs_vllm, pytest.mark.engine]

PROMPT, SAMPLES, TOKENS = range(5, 13), 4, 24


class Force(LogitsProcessor):
    """Notes the fused logits of each step, and lets only the given tokens be drawn."""

    def __init__(self, tokens):
        self._tokens = tokens
        self.seen = []

    def __call__(self, input_ids, scores):
        wanted = self._tokens[:, len(self.seen), None]
        self.seen.append(scores.clone())
        return torch.full_like(scores, -torch.inf).scatter(1, wanted, 0.0)


def test_teacher_forced_tokens_have_the_same_fused_logits(hosts, tiny):
    engine = hosts().start("armed", tiny, esamp={})
    request = add("a", PROMPT, beta=1.0, n=SAMPLES, max_tokens=TOKENS)
    result = engine.call("fused_logits", events=[request])
    tokens = torch.tensor(result["tokens"]["a"])
    assert len(result["steps"]) == TOKENS - 1

    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    force = Force(tokens)
    output = generate(
        model,
        torch.tensor([list(PROMPT)]),
        method=ESamp(beta=1.0, truncation="fused"),
        logits_processor=LogitsProcessorList([force]),
        num_return_sequences=SAMPLES,
        max_new_tokens=TOKENS,
        top_k=0,
        pad_token_id=0,
    )
    assert torch.equal(output.sequences[:, len(PROMPT) :], tokens)
    for number, step in enumerate(result["steps"], start=1):
        ours = torch.stack([torch.tensor(step[name]) for name in sorted(step)])
        torch.testing.assert_close(ours, force.seen[number], rtol=1e-3, atol=2e-3)
