import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU

from esamp.evals.metrics import self_bleu, words_of
from esamp.evals.metrics.words import ORDERS

WORDS = st.lists(st.sampled_from(["the", "cat", "sat", "on", "a", "mat", "."]), max_size=14)


def by_sacrebleu(samples):
    """Each sample's sentence BLEU against all others, word by word as they are."""
    bleu = BLEU(tokenize="none", effective_order=True)
    texts = [" ".join(sample) for sample in samples]
    scores = [
        bleu.sentence_score(text, texts[:number] + texts[number + 1 :]).score
        for number, text in enumerate(texts)
    ]
    return sum(scores) / len(scores) / 100


@given(st.lists(WORDS.filter(bool), min_size=2, max_size=7))
def test_self_bleu_is_sacrebleus(samples):
    assert self_bleu(samples) == pytest.approx(by_sacrebleu(samples), abs=1e-12)


def test_samples_that_are_the_same_have_one_and_those_without_a_common_word_none():
    same = ["a", "cat", "sat", "on", "the", "mat"]
    assert self_bleu([same, same, same]) == pytest.approx(1)
    assert self_bleu([["a", "b"], ["c", "d"]]) == 0


@given(st.lists(WORDS, min_size=2, max_size=6))
def test_it_is_a_share_and_the_order_of_samples_does_not_matter(samples):
    score = self_bleu(samples)
    backwards = self_bleu(samples[::-1])
    assert score is None or 0 <= score <= 1 + 1e-12
    assert backwards == score if score is None else backwards == pytest.approx(score)


@pytest.mark.parametrize("samples", [[], [["a"]], [["a"], []], [[], []]])
def test_it_is_undefined_for_fewer_than_two_samples_with_words(samples):
    assert self_bleu(samples) is None


def test_a_sample_without_words_changes_nothing():
    samples = [["a", "b", "c"], ["a", "b"]]
    assert self_bleu([*samples, []]) == self_bleu(samples)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The cat's well-known.", ["The", "cat's", "well-known", "."]),
        ("3-4 is -1!", ["3", "-", "4", "is", "-1", "!"]),
        ("1,000.5, no", ["1,000.5", ",", "no"]),
        ("no.1 .5 5.", ["no", ".", "1", ".", "5", "5", "."]),
        ('say "hi"\n(now)', ["say", '"', "hi", '"', "(", "now", ")"]),
        ("naïve — yes…", ["naïve", "—", "yes…"]),
        ("  ", []),
    ],
)
def test_words_by_hand(text, words):
    assert words_of(text) == words


PIECES = ["cat", "don't", "well-known", "3.5", "1,000", "7", "(x)", '"so"', "end.", "why?", "é"]


@given(st.lists(st.sampled_from([*PIECES, ",", "!", "a/b"]), max_size=12))
def test_words_are_those_of_13a_in_ordinary_text(pieces):
    text = " ".join(pieces)
    assert words_of(text) == BLEU(tokenize="13a").tokenizer(text).split()


def test_bleu_has_four_orders():
    assert BLEU().max_ngram_order == ORDERS
