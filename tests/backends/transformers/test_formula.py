"""The central contract: what was drawn from is the dense formula, for every family and reading.

A seeded call with left-padded prompts and rows that end at different times is replayed token by
token from plain hidden states; see replay.py for the formula.
"""

import pytest
import torch

import esamp
from backends.transformers.calls import ENDS, FAST, LONG, SHORT
from backends.transformers.replay import replay, with_head_bias
from esamp import ESamp, MeanDistiller, MLPDistiller
from esamp.generation import Sampling
from tiny import FAMILIES, batch, tiny

PROMPTS = (SHORT, LONG)
SAMPLES = 5
PLAIN = Sampling(temperature=0.8)
TRUNCATED = Sampling(temperature=0.8, top_k=40, top_p=0.95, min_p=0.005)
FEW = Sampling(temperature=0.8, top_k=4, top_p=0.95)
"""Ten rows times eight tokens are fewer than the vocabulary's 97: no second projection."""
READINGS = {
    "no truncation": (ESamp(beta=0.7, distiller=FAST), PLAIN),
    "reference": (ESamp(beta=0.7, distiller=FAST), TRUNCATED),
    "few survive": (ESamp(beta=0.7, distiller=FAST), FEW),
    "fused": (ESamp(beta=0.7, distiller=FAST, truncation="fused"), TRUNCATED),
}


def assert_is_the_formula(model, method, sampling):
    inputs = batch(*PROMPTS)
    output = esamp.generate(
        model,
        **inputs,
        method=method,
        seed=7,
        num_return_sequences=SAMPLES,
        max_new_tokens=14,
        eos_token_id=ENDS,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p or None,
    )
    rows = len(PROMPTS) * SAMPLES
    groups = {
        "prompt": [row // SAMPLES for row in range(rows)],
        "shared": [0] * rows,
        "sample": list(range(rows)),
    }[method.scope]
    mask = inputs["attention_mask"].repeat_interleave(SAMPLES, dim=0)
    expected = replay(model, output, mask, method, sampling, groups)
    torch.testing.assert_close(
        output.logprobs, expected.logprobs, atol=1e-4, rtol=0, equal_nan=True
    )
    torch.testing.assert_close(output.novelty, expected.novelty, atol=1e-4, rtol=0, equal_nan=True)
    steered = (expected.logprobs - expected.reference_logprobs)[:, 1:]
    assert steered.nan_to_num().abs().max() > 0.2, "the formula is not plain sampling here"
    assert len(set(output.lengths.tolist())) > 1, "rows end at different times"


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_draws_from_the_formula(family, reading):
    assert_is_the_formula(tiny(family), *READINGS[reading])


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("reading", READINGS)
def test_a_bias_on_the_head_cancels(reading, tied):
    model = with_head_bias(tiny("llama", tie_word_embeddings=tied))
    assert_is_the_formula(model, *READINGS[reading])


@pytest.mark.parametrize(
    "method",
    [
        ESamp(beta=0.7, distiller=MeanDistiller()),
        ESamp(beta=0.7, distiller=MLPDistiller(width=16, learning_rate=0.01)),
        ESamp(beta=0.7, distiller=FAST, scope="shared"),
        ESamp(beta=0.7, distiller=FAST, scope="sample"),
        ESamp(beta=0.7, distiller=FAST, layer=2),
    ],
    ids=["mean", "mlp", "shared", "sample", "layer 2"],
)
def test_every_distiller_scope_and_layer_draws_from_the_formula(method):
    assert_is_the_formula(tiny("qwen3"), method, TRUNCATED)
