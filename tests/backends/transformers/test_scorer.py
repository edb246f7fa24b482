import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esamp.backends.transformers import scorer as scoring
from esamp.backends.transformers.generator import TransformersGenerator
from esamp.backends.transformers.load import demo_gguf
from esamp.backends.transformers.scorer import TransformersScorer, token_logprobs
from esamp.errors import ModelError, UsageError
from esamp.evals.scoring import Scorer
from esamp.generation import Request, Sampling
from esamp.method import Vanilla
from tiny import FAMILIES, VOCAB, tiny, tiny_tokenizer

TEXTS = ["some text", "a", "", "a good deal longer than the others are", "some text"]
TEMPLATE = "{% for m in messages %}<{{ m['content'] }}>{% endfor %}"


def scorer(family="llama", **settings):
    return TransformersScorer(model=tiny(family), tokenizer=tiny_tokenizer(), **settings)


@torch.no_grad()
def one_by_one(model, head, text):
    """The likelihood of one text in one pass over all of it."""
    tokenizer = tiny_tokenizer()
    start, ids = tokenizer(head)["input_ids"], tokenizer(text)["input_ids"] if text else []
    logits = model(input_ids=torch.tensor([start + ids])).logits[0].double()
    logprobs = logits.log_softmax(-1)
    return -sum(float(logprobs[len(start) - 1 + n, token]) for n, token in enumerate(ids)), len(ids)


def assert_same(found, expected):
    for (nll, tokens), (right, count) in zip(found, expected, strict=True):
        assert tokens == count
        assert nll == pytest.approx(right, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_of_a_batch_are_those_of_one_text_at_a_time(family, monkeypatch):
    """In pieces of three tokens: caches, windows and caps of every family."""
    monkeypatch.setattr(scoring, "LOGITS", 4 * 3 * VOCAB)
    reader = scorer(family)
    found = reader.score("Tell me.", TEXTS, plain_text=True)
    assert_same(found, [one_by_one(reader.model, "Tell me.", text) for text in TEXTS])


@given(st.lists(st.text("abc ", max_size=30), min_size=1, max_size=20), st.integers(1, 2000))
def test_neither_neighbours_nor_the_size_of_pieces_matter(texts, logits):
    reader = scorer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "LOGITS", logits)
        found = reader.score("Go on", texts, plain_text=True)
    alone = [reader.score("Go on", [text], plain_text=True)[0] for text in texts]
    assert_same(found, alone)


def test_nothing_is_asked_for_by_an_old_name():
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        scorer().score("x", TEXTS, True)


def test_a_model_without_a_cache_is_refused(monkeypatch):
    monkeypatch.setattr(scoring, "name_of_cache", lambda shown: None)
    with pytest.raises(ModelError, match="keeps no cache that samples could share"):
        scorer().score("x", TEXTS, True)


def test_it_is_a_scorer_and_gives_the_same_bits_each_time():
    reader = scorer()
    assert isinstance(reader, Scorer)
    assert reader.score("x", TEXTS, False) == reader.score("x", TEXTS, False)


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_the_own_scorer_gives_what_the_generator_drew_by(template):
    """Plain sampling at temperature 1: the samples' own log-probabilities, token by token."""
    model, tokenizer = tiny("llama"), tiny_tokenizer()
    tokenizer.chat_template = template
    generator = TransformersGenerator(model=model, tokenizer=tokenizer)
    request = Request(prompts=["Tell me."], samples=12, sampling=Sampling(max_new_tokens=9), seed=1)
    (samples,) = generator.generate(request, Vanilla()).completions
    # Special tokens leave no text behind.
    whole = [each for each in samples if len(each.text) == len(each.token_ids)]
    assert len(whole) > 3
    own = TransformersScorer(model=model, tokenizer=tokenizer, own=True)
    found = own.score("Tell me.", [each.text for each in whole], plain_text=False)
    assert_same(found, [(-sum(each.logprobs), len(each.token_ids)) for each in whole])


def test_an_even_model_gives_the_logarithm_of_its_vocabulary():
    reader = scorer()
    with torch.no_grad():
        reader.model.get_output_embeddings().weight.zero_()
    ((nll, tokens),) = reader.score("x", ["abcd"], plain_text=True)
    assert (nll, tokens) == (pytest.approx(4 * math.log(VOCAB)), 4)


def test_an_empty_text_has_no_token_and_no_nats():
    assert scorer().score("x", ["", ""], plain_text=True) == [(0.0, 0), (0.0, 0)]
    assert scorer().score("x", [], plain_text=True) == []


@pytest.mark.parametrize(
    ("settings", "plain_text", "head"),
    [
        ({}, True, "Ask"),
        ({}, False, "Ask\n\n"),
        ({"own": True}, True, "Ask"),
        ({"own": True}, False, "<Ask>"),
        ({"own": True, "chat_template": "none"}, False, "Ask"),
    ],
)
def test_who_sees_what_before_the_text(settings, plain_text, head):
    reader = scorer(**settings)
    reader.tokenizer.chat_template = TEMPLATE
    found = reader.score("Ask", ["the text"], plain_text)
    assert_same(found, [one_by_one(reader.model, head, "the text")])


def test_the_first_token_depends_on_the_prompt():
    reader = scorer()
    one, other = (reader.score(prompt, ["a"], True)[0].nll for prompt in ("This", "That"))
    assert one != pytest.approx(other)


def test_a_text_that_does_not_fit_is_refused_and_not_cut():
    reader = scorer()
    fits = "x" * (256 - 4)
    assert reader.score("1234", [fits], True)[0].tokens == 252
    with pytest.raises(UsageError, match="253 tokens after a prompt of 4 and the scorer's context"):
        reader.score("1234", ["a", fits + "x"], True)


def test_a_prompt_without_a_token_is_refused():
    with pytest.raises(UsageError, match="prompt '' has no token"):
        scorer().score("", ["text"], plain_text=True)


def test_a_damaged_model_is_an_error_and_no_number():
    reader = scorer()
    with torch.no_grad():
        reader.model.get_output_embeddings().weight[5] = math.nan
    with pytest.raises(ModelError, match="likelihoods that are not finite"):
        reader.score("x", ["text"], plain_text=True)


def test_no_more_logits_exist_at_a_time_than_allowed(monkeypatch):
    seen = []

    def note(logits, ids):
        seen.append(logits.numel())
        return token_logprobs(logits, ids)

    monkeypatch.setattr(scoring, "LOGITS", 16 * VOCAB)
    monkeypatch.setattr(scoring, "token_logprobs", note)
    scorer().score("x", ["some text of a length"] * 11, plain_text=True)
    assert max(seen) == 16 * VOCAB
    assert len(seen) == 1 + math.ceil(20 / 2) + 1 + math.ceil(20 / 5)


def test_logprobs_are_in_fp32_whatever_the_model_is_in():
    logits = torch.tensor([[[1000.0, 999.0, -1000.0]]], dtype=torch.bfloat16)
    found = token_logprobs(logits, torch.tensor([[0]]))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(float(logits.double().log_softmax(-1)[0, 0, 0]))


def test_a_folder_is_loaded(tmp_path):
    tiny("llama").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    reader = TransformersScorer.load(str(tmp_path), dtype="float32", device="cpu")
    assert not reader.own
    assert_same(reader.score("x", TEXTS, True), scorer().score("x", TEXTS, True))


@pytest.mark.parametrize("name", ["/no/such/folder", "/no/such/file.gguf"])
def test_a_scorer_that_is_not_there_is_one_sentence(name):
    with pytest.raises(ModelError, match=f"{name}.* cannot be loaded") as error:
        TransformersScorer.load(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [None, "model.gguf"])
def test_an_unknown_dtype_is_refused(name):
    with pytest.raises(UsageError, match="dtype is 'int3'"):
        TransformersScorer.load(name, dtype="int3")


@pytest.mark.model
@pytest.mark.slow
def test_a_gguf_file_reads_english(smollm):
    """The demo model's file, given by its path; text that fits its prompt is likelier."""
    reader = TransformersScorer.load(str(demo_gguf()), device="cpu")
    fitting, other = reader.score(
        "What is the capital of France?", ["The capital is Paris.", "Capital the Paris is."], False
    )
    assert fitting.nll / fitting.tokens < other.nll / other.tokens
    own = TransformersScorer(model=smollm[0], tokenizer=smollm[1])
    again = own.score("What is the capital of France?", ["The capital is Paris."], False)
    assert again[0].nll == pytest.approx(fitting.nll, rel=0.01)
