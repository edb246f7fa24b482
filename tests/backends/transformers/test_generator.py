from itertools import chain

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForCausalLM

from backends.transformers.calls import ENDS, STRONG
from backends.transformers.test_decode import break_logits
from esamp import InertWarning, UsageError, Vanilla
from esamp.backends.text import pieces
from esamp.backends.transformers.generator import TransformersGenerator
from esamp.generation import Generator, Request, Sampling
from tiny import EOS, batch, tiny, tiny_tokenizer

TEN = Sampling(max_new_tokens=10)


@pytest.fixture
def generator():
    return TransformersGenerator(model=tiny("llama"), tokenizer=tiny_tokenizer())


def request(*prompts, samples=3, sampling=TEN, seed=7, **fields):
    return Request(prompts=prompts, samples=samples, sampling=sampling, seed=seed, **fields)


def test_it_is_a_generator(generator):
    assert isinstance(generator, Generator)


def test_every_prompt_gets_its_samples(generator):
    generation = generator.generate(request("hello", "good morning"), STRONG)
    assert [len(completions) for completions in generation.completions] == [3, 3]
    for completion in chain(*generation.completions):
        assert completion.text == generator.tokenizer.decode(
            completion.token_ids, skip_special_tokens=True
        )
        assert len(completion.token_ids) == len(completion.logprobs) == 10
        assert all(logprob < 0 for logprob in completion.logprobs)
        assert completion.novelty[0] is None, "first tokens are not steered"
        assert all(value > 0 for value in completion.novelty[1:])
        assert completion.reference_logprobs is None


def test_a_prompts_samples_do_not_depend_on_its_neighbours(generator):
    both = generator.generate(request("hello", "good morning"), STRONG).completions
    alone = generator.generate(request("hello"), STRONG).completions
    assert [each.token_ids for each in both[0]] == [each.token_ids for each in alone[0]]


def test_stats_count(generator):
    generator.model.generation_config.eos_token_id = ENDS
    generation = generator.generate(request("hello", "good morning"), STRONG)
    tokens = sum(len(each.token_ids) for each in chain(*generation.completions))
    stats = generation.stats
    assert stats.tokens == tokens < 60
    assert stats.tokens_per_second == stats.tokens / stats.seconds > 0
    assert len(stats.distiller_error) == 9
    assert stats.nonfinite_rows == 0
    assert stats.kl is stats.entropy is stats.reference_entropy is None


def test_diagnostics_come_on_request(generator):
    generation = generator.generate(request("hello", diagnostics=True), STRONG)
    assert generation.stats.kl > 0
    assert generation.stats.entropy > 0
    assert generation.stats.reference_entropy > 0
    assert len(generation.completions[0][0].reference_logprobs) == 10


def test_a_single_token_has_no_steered_statistics(generator):
    one = Sampling(max_new_tokens=1)
    stats = generator.generate(request("hello", sampling=one, diagnostics=True), STRONG).stats
    assert stats.kl is None
    assert list(stats.distiller_error) == []


def test_a_vanilla_generation_has_no_novelty(generator):
    generation = generator.generate(request("hello"), Vanilla())
    assert generation.completions[0][0].novelty is None
    assert list(generation.stats.distiller_error) == []


def test_finish_reasons(generator):
    generator.model.generation_config.eos_token_id = ENDS
    completions = generator.generate(request("hello", samples=16), STRONG).completions[0]
    for completion in completions:
        ended = completion.token_ids[-1] in ENDS
        assert completion.finish_reason == ("stop" if ended else "length")
        assert ended or len(completion.token_ids) == 10
    assert {each.finish_reason for each in completions} == {"stop", "length"}


def test_an_end_token_in_the_last_place_is_a_stop(generator):
    free = generator.generate(request("hello", samples=1), STRONG).completions[0][0]
    last = free.token_ids[-1]
    assert last not in free.token_ids[:-1]
    generator.model.generation_config.eos_token_id = last
    ended = generator.generate(request("hello", samples=1), STRONG).completions[0][0]
    assert ended.token_ids == free.token_ids
    assert ended.finish_reason == "stop"


@pytest.mark.parametrize("step", [0, 4])
def test_a_row_that_is_not_finite_says_so(generator, step):
    break_logits(generator.model, row=1, step=step)
    generation = generator.generate(request("hello"), Vanilla())
    reasons = [each.finish_reason for each in generation.completions[0]]
    assert reasons == ["length", "nonfinite", "length"]
    assert len(generation.completions[0][1].token_ids) == step
    assert generation.stats.nonfinite_rows == 1


TEMPLATE = "{% for message in messages %}<{{ message.content }}>{% endfor %}:"


def test_a_chat_template_is_used_where_there_is_one(generator):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    chat = TransformersGenerator(model=generator.model, tokenizer=tokenizer)
    plain = TransformersGenerator(model=generator.model, tokenizer=tokenizer, chat_template="none")
    answer = chat.generate(request("hello"), STRONG).completions
    assert answer == plain.generate(request("<hello>:"), STRONG).completions
    assert answer != plain.generate(request("hello"), STRONG).completions
    assert answer == generator.generate(request("<hello>:"), STRONG).completions


def test_only_without_a_template_does_the_tokenizer_add_its_special_tokens(generator):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<eos> $A", special_tokens=[("<eos>", EOS)]
    )
    chat = TransformersGenerator(model=generator.model, tokenizer=tokenizer)
    plain = TransformersGenerator(model=generator.model, tokenizer=tokenizer, chat_template="none")
    expected = generator.generate(request("<hello>:"), STRONG).completions
    assert chat.generate(request("hello"), STRONG).completions == expected
    assert plain.generate(request("<hello>:"), STRONG).completions != expected


def test_a_prompt_that_does_not_fit_the_context_is_refused(generator):
    with pytest.raises(UsageError, match=r"has 250 tokens and 10 more .* context is 256"):
        generator.generate(request("hello", "x" * 250), STRONG)
    assert generator.generate(request("x" * 246), STRONG).stats.tokens == 30


def test_temperature_zero_is_greedy(generator):
    greedy = Sampling(temperature=0.0, max_new_tokens=10, top_k=20, top_p=0.9, min_p=0.1)
    with pytest.warns(InertWarning, match="greedy"):
        generation = generator.generate(request("hello", samples=1, sampling=greedy), STRONG)
    prompt = generator.tokenizer("hello").input_ids
    stock = generator.model.generate(**batch(prompt), do_sample=False, max_new_tokens=10)
    assert generation.completions[0][0].token_ids == stock[0, len(prompt) :].tolist()


def test_greedy_samples_are_all_alike(generator):
    greedy = Sampling(temperature=0.0, max_new_tokens=10)
    first, second = generator.generate(
        request("hello", samples=2, sampling=greedy), Vanilla()
    ).completions[0]
    assert first == second


def test_sampling_settings_reach_the_model(generator):
    one = Sampling(top_k=1, max_new_tokens=10)
    completions = generator.generate(request("hello", sampling=one), STRONG).completions[0]
    assert len({tuple(each.token_ids) for each in completions}) == 1
    for narrow in (Sampling(top_p=0.01), Sampling(min_p=1.0), Sampling(temperature=0.001)):
        again = generator.generate(request("hello", sampling=narrow), Vanilla()).completions[0]
        assert again[0].token_ids[:10] == completions[0].token_ids


def test_the_models_own_defaults_do_not_truncate(generator):
    generator.model.generation_config.top_k = 1
    generator.model.generation_config.temperature = 0.1
    completions = generator.generate(request("hello", samples=8), Vanilla()).completions[0]
    assert len({tuple(each.token_ids) for each in completions}) == 8


def test_prompts_are_padded_on_the_left_whatever_the_tokenizer_says(generator):
    expected = generator.generate(request("hello", "good morning"), STRONG).completions
    generator.tokenizer.padding_side = "right"
    assert generator.generate(request("hello", "good morning"), STRONG).completions == expected


def test_progress_is_told_from_start_to_end(generator):
    shares = []
    generator.generate(request("hello", "good morning"), STRONG, progress=shares.append)
    assert shares[0] == 0.0
    assert shares[-1] == 1.0
    assert shares == sorted(shares)
    assert len(shares) == 12


def test_the_models_own_penalties_do_not_reach_an_arm(generator):
    plain = generator.generate(request("hello"), Vanilla()).completions
    own = generator.model.generation_config
    own.repetition_penalty, own.no_repeat_ngram_size = 5.0, 1
    assert generator.generate(request("hello"), Vanilla()).completions == plain


def test_a_character_of_several_tokens_comes_with_the_last():
    class Bytes:
        def decode(self, token_ids, skip_special_tokens):
            return bytes(token_ids).decode(errors="replace")

    found = pieces(Bytes(), list("a 🦊é!".encode()))
    assert found == ["a", " ", "", "", "", "🦊", "", "é", "!"]
    assert pieces(Bytes(), list("é".encode())[:1]) == ["\ufffd"]


def test_pieces_add_up_to_the_text(generator):
    completion = generator.generate(request("hello"), STRONG).completions[0][0]
    found = generator.pieces(completion.token_ids)
    assert len(found) == 10
    assert "".join(found) == completion.text


def test_a_family_without_a_stated_context_works():
    config = AutoConfig.for_model("bloom", vocab_size=97, hidden_size=32, n_layer=3, n_head=4)
    config.eos_token_id = config.bos_token_id = None
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    generator = TransformersGenerator(model=model, tokenizer=tiny_tokenizer())
    assert generator.generate(request("hello"), STRONG).stats.tokens == 30
