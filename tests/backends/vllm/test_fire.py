"""The first token of FIRE, drawn outside the engine."""

import math

import pytest
import torch

from esamp.backends.vllm.fire import begin, check_fire, draw_firsts, join, unfinished
from esamp.baselines import Fire
from esamp.errors import UsageError
from esamp.generation import Completion, Sampling
from esamp.sampling import Uniforms, draw, row_key, top_k

KEYS = [row_key(3, [1, 2], place) for place in range(400)]


def test_first_tokens_are_those_that_the_full_distribution_would_give():
    """The same streams, over all of the vocabulary, as Transformers rows are drawn."""
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    fire = Fire(first_temperature=5.0, first_top_k=8)
    hot = top_k(logits[None], 8) / 5.0
    expected = draw(hot.repeat(len(KEYS), 1), Uniforms(KEYS).next())
    likeliest = logits.log_softmax(-1).topk(9)  # one more, as vLLM adds the token it drew
    table = dict(zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True))
    drawn = draw_firsts(table, fire, Sampling(), KEYS)
    assert [token for token, _ in drawn] == expected.tokens.tolist()
    torch.testing.assert_close(torch.tensor([each for _, each in drawn]), expected.logprobs)
    assert len({token for token, _ in drawn}) == 8


def test_truncation_comes_on_top():
    table = {token: math.log(0.25) for token in range(4)}
    fire = Fire(first_top_k=4)
    assert {token for token, _ in draw_firsts(table, fire, Sampling(top_p=0.4), KEYS)} == {0, 1}
    table = {0: -0.1, 1: -2.0, 2: -9.0}
    assert {token for token, _ in draw_firsts(table, fire, Sampling(top_k=1), KEYS)} == {0}


@pytest.mark.parametrize("kept", [0, 21])
def test_more_tokens_than_the_engine_tells_are_refused(kept):
    with pytest.raises(UsageError, match=f"first_top_k is {kept}: on vLLM give 1 to 20"):
        check_fire(Fire(first_top_k=kept), 20)


def test_samples_that_end_with_their_first_token_do_not_go_on():
    firsts = [begin([(7, -1.0), (2, -0.5)], {2}, ["a", ""]), begin([(8, -2.0)], {2}, ["b"])]
    assert [each.finish_reason for each in firsts[0]] == ["length", "stop"]
    extra = {"esamp_beta": 0.5, "esamp_scope": "prompt"}
    first, second = unfinished([[1], [3, 4]], firsts, extra)
    assert (first.prompt, first.sample, first.token_ids) == (0, 0, [1, 7])
    assert (second.prompt, second.sample, second.token_ids) == (1, 0, [3, 4, 8])
    assert first.extra == {"esamp_beta": 0.5, "esamp_group": "fire 0"}
    assert second.extra["esamp_group"] == "fire 1"
    assert extra["esamp_scope"] == "prompt", "what was given is left alone"


def test_two_parts_are_one_sample():
    rest = Completion(text="b", token_ids=[8, 2], finish_reason="stop", logprobs=[-2.0, -3.0])
    (first,) = begin([(7, -1.0)], set(), ["a"])
    whole = join(first, rest, "ab")
    assert whole == Completion(
        text="ab", token_ids=[7, 8, 2], finish_reason="stop", logprobs=[-1.0, -2.0, -3.0]
    )
