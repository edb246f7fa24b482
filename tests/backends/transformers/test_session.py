"""The batch and its cache: however the model is run, the same tokens come out (fp32)."""

from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache

from backends.transformers.calls import (
    ENDS,
    KEEPING,
    LONG,
    SHORT,
    STRONG,
    batch_sizes,
    decode,
    drawn,
    sample,
)
from esamp import ESamp, Vanilla
from esamp.backends.transformers import Decoding
from esamp.backends.transformers.decode import CACHE_FIELD
from tiny import batch, tiny, tiny_seeing

FAMILIES_WITH_CACHES = ["llama", "gemma2", "gemma3_text", "gpt_oss", "mixtral", "lfm2"]


@pytest.mark.parametrize("family", FAMILIES_WITH_CACHES)
def test_dropping_finished_rows_changes_no_token(family):
    model = tiny(family)
    options = {"samples": 8, "tokens": 20, "eos_token_id": ENDS}
    kept = decode(KEEPING, model, SHORT, LONG, **options)
    dropped = sample(model, SHORT, LONG, **options)
    assert torch.equal(dropped.sequences, kept.sequences)
    torch.testing.assert_close(dropped.logprobs, kept.logprobs, atol=1e-4, rtol=0, equal_nan=True)


def test_finished_rows_leave_the_batch_once_a_quarter_is_finished():
    model = tiny("llama")
    sizes = batch_sizes(model)
    lengths = sample(model, SHORT, LONG, samples=8, tokens=20, eos_token_id=ENDS).lengths
    assert sizes[:2] == [1, 2], "the check, and each prompt once"
    for step, size in enumerate(sizes[2:], 1):
        unfinished = int((lengths > step).sum())
        assert unfinished <= size
        assert unfinished > 0.75 * size or size == unfinished
    assert sizes[-1] < 8


MORE = {
    "steered": {},
    "truncated": {"top_p": 0.9, "eos_token_id": ENDS},
    "in pieces": {"prefill_chunk_size": 2},
    "scores": {"output_scores": True, "output_logits": True},
    "all positions": {"logits_to_keep": 0},
}
METHODS = {
    "steered": Decoding(method=STRONG),
    "diagnosed": Decoding(method=STRONG, diagnostics=True),
    "paper's": Decoding(method=ESamp.paper()),
    "plain": Decoding(method=Vanilla()),
}


@pytest.mark.parametrize("options", MORE.values(), ids=MORE)
@pytest.mark.parametrize("decoding", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt_oss"])
def test_running_a_prompt_once_for_its_rows_changes_no_token(family, decoding, options):
    model = tiny(family)
    prompts = [SHORT, LONG, LONG[1:], SHORT]  # given several times too, as trainers do
    expected = decode(replace(decoding, share_prompts=False), model, *prompts, **options)
    output = decode(decoding, model, *prompts, **options)
    assert torch.equal(output.sequences, expected.sequences)
    for name in ("logprobs", "novelty", "reference_logprobs", "scores", "logits"):
        one, other = getattr(output, name), getattr(expected, name)
        torch.testing.assert_close(one, other, atol=1e-3, rtol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("prompts", "options", "first"),
    [
        ([SHORT, LONG, SHORT], {}, 2),
        ([SHORT, LONG], {"samples": 1}, 2),
        ([SHORT, LONG], {"output_hidden_states": True}, 8),
        ([SHORT, LONG], {"output_attentions": True}, 8),
        ([SHORT, LONG], {"cache_implementation": "static"}, 8),
        ([SHORT, LONG], {"use_cache": False}, 8),
    ],
    ids=str,
)
def test_a_prompt_is_run_once_where_its_cache_can_be_copied(prompts, options, first):
    model = tiny("llama", attn_implementation="eager")
    sizes = batch_sizes(model)
    output = sample(model, *prompts, **options)
    assert sizes[1] == first
    if "output_hidden_states" in options:
        assert {len(state) for step in output.hidden_states for state in step} == {8}
    if "output_attentions" in options:
        assert {len(weights) for step in output.attentions for weights in step} == {8}


def test_a_prompt_is_run_for_each_row_if_it_is_not_to_be_shared():
    model = tiny("llama")
    sizes = batch_sizes(model)
    decode(Decoding(method=STRONG, share_prompts=False), model, SHORT, LONG)
    assert set(sizes[1:]) == {8}


def test_a_model_that_also_sees_shares_prompts_and_drops_rows_of_text():
    model = tiny_seeing()
    sizes = batch_sizes(model)
    options = {"samples": 8, "tokens": 20, "eos_token_id": ENDS}
    output = sample(model, SHORT, LONG, **options)
    assert sizes[1] == 2
    assert sizes[-1] < 16
    kept = decode(replace(KEEPING, share_prompts=False), model, SHORT, LONG, **options)
    assert torch.equal(output.sequences, kept.sequences)
    torch.testing.assert_close(output.logprobs, kept.logprobs, atol=1e-4, rtol=0, equal_nan=True)


def test_of_a_prefill_that_gives_all_logits_only_the_last_stay_in_memory():
    options = {"logits_to_keep": 0, "output_logits": True}
    whole = Decoding(method=Vanilla(), share_prompts=False)
    output = decode(whole, tiny("llama"), LONG, LONG[1:], **options)
    assert len(output.logits) == 10
    assert all(each.untyped_storage().nbytes() <= 2 * each.nbytes for each in output.logits)


def test_finished_rows_stay_if_the_cache_is_to_be_returned():
    model = tiny("llama")
    sizes = batch_sizes(model)
    output = decode(KEEPING, model, SHORT, LONG, eos_token_id=ENDS)
    assert sizes[1:] == [2] + [8] * (len(sizes) - 2)
    assert getattr(output, CACHE_FIELD).get_seq_length() == output.sequences.shape[1] - 1


@pytest.mark.parametrize(
    "options",
    [
        {"cache_implementation": "dynamic"},
        {"cache_implementation": "static"},
        {"use_cache": False},
        {"prefill_chunk_size": 2},
        {"prefill_chunk_size": 4, "top_p": 0.9},
        {"logits_to_keep": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_the_cache_and_the_prefill_change_no_token(family, options):
    model = tiny(family)
    plain = {name: value for name, value in options.items() if name == "top_p"}
    expected = sample(model, SHORT, LONG, eos_token_id=ENDS, **plain)
    output = sample(model, SHORT, LONG, eos_token_id=ENDS, **options)
    assert torch.equal(output.sequences, expected.sequences)


def test_a_quantised_cache_works():
    pytest.importorskip("optimum.quanto")
    output = sample(tiny("llama"), SHORT, LONG, cache_implementation="quantized")
    assert output.lengths.tolist() == [10] * 8


def from_embeddings(model, *prompts, **kwargs):
    embedded = model.get_input_embeddings()(torch.tensor(prompts)).detach()
    return model.generate(
        inputs_embeds=embedded,
        custom_generate=Decoding(method=STRONG),
        do_sample=True,
        max_new_tokens=10,
        return_dict_in_generate=True,
        **kwargs,
    )


def test_embeddings_can_be_given_in_place_of_tokens():
    model = tiny("llama")
    # The streams of numbers are those of the tokens, so compare where numbers do not matter.
    expected, output = (
        sample(model, LONG, samples=1, top_k=1),
        from_embeddings(model, LONG, top_k=1),
    )
    assert output.sequences.shape == (1, 10), "as stock: without the prompt"
    assert drawn(output) == drawn(expected)
    torch.testing.assert_close(output.novelty, expected.novelty, equal_nan=True)


def test_clones_given_as_embeddings_differ_from_each_other():
    output = from_embeddings(tiny("llama"), *[LONG] * 4)
    assert len(set(map(tuple, drawn(output)))) == 4


def cache_of(model, tokens, rows=1):
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(torch.tensor([tokens] * rows), **{CACHE_FIELD: cache})
    return cache


def resumed(model, inputs, cache, **kwargs):
    return model.generate(
        **inputs,
        **{CACHE_FIELD: cache},
        custom_generate=Decoding(method=STRONG),
        esamp_seed=7,
        do_sample=True,
        max_new_tokens=10,
        return_dict_in_generate=True,
        **{"top_k": 0} | kwargs,
    )


def test_a_cache_of_the_prompt_can_be_given():
    model = tiny("llama")
    # With a cache, tokens are not all there is: the streams of numbers are other ones.
    expected = sample(model, LONG, samples=1, top_k=1)
    output = resumed(model, batch(LONG), cache_of(model, LONG[:-1]), top_k=1)
    assert torch.equal(output.sequences, expected.sequences)
    torch.testing.assert_close(output.novelty, expected.novelty, equal_nan=True)


def test_a_cache_that_was_given_keeps_all_its_rows():
    model = tiny("llama")
    cache = cache_of(model, LONG[:-1], rows=8)
    output = resumed(model, batch(*[LONG] * 8), cache, eos_token_id=ENDS)
    assert len(set(output.lengths.tolist())) > 1
    assert len(cache.layers[0].keys) == 8


def test_rows_share_a_group_only_if_their_cached_prompts_are_equal():
    model = tiny("llama")
    first, second = [11, 12, 13, 14], [15, 16, 17, 14]
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(torch.tensor([first[:-1], second[:-1]]), **{CACHE_FIELD: cache})
    # As allowed by `generate`: only the new token, with a mask for the whole.
    news = {"input_ids": torch.tensor([[14], [14]]), "attention_mask": torch.ones(2, 4).long()}
    together = resumed(model, news, cache)
    alone = resumed(
        model, {name: value[:1] for name, value in news.items()}, cache_of(model, first[:-1])
    )
    torch.testing.assert_close(together.novelty[:1], alone.novelty, equal_nan=True)
