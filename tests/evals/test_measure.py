import json
import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esamp.errors import UsageError
from esamp.evals.measure import measure_group
from esamp.evals.metrics import mean_similarity, vendi
from esamp.evals.records import GroupRecord, SampleRecord
from esamp.evals.scoring import Scored, Scorer
from esamp.evals.task import Item

ITEM = Item(id="1", prompt="Tell me.")


def embed(texts):
    """One dimension for each of a few letters, and one for length: enough to tell texts apart."""
    letters = "abcdefgh "
    return torch.tensor([[*(text.count(each) for each in letters), 1.0] for text in texts])


class Reader(list):
    """An embedder that notes what it was given."""

    def __call__(self, texts):
        self.append(list(texts))
        return embed(texts)

    def cut(self, texts):
        return sum(len(text) > 20 for text in texts)


@dataclass
class Counter:
    """A scorer: a token is a letter and has as many nats as the prompt has letters."""

    calls: list = field(default_factory=list)

    def score(self, prompt, texts, plain_text):
        self.calls.append(plain_text)
        return [Scored(float(len(prompt) * len(text)), len(text)) for text in texts]


def sample(text, **settings):
    """A sample with one token a letter."""
    defaults = {"finish_reason": "stop", "ends": range(1, len(text) + 1), "logprob": -1.0}
    return SampleRecord(text=text, **{**defaults, "ends": list(defaults["ends"]), **settings})


def group(*samples, **settings):
    defaults = {"arm": "vanilla", "seed": 0, "item": "1", "batch": 0, "distiller_error": []}
    return GroupRecord(samples=list(samples), **{**defaults, **settings})


def measured(*samples, embedders=None, scorers=None, **settings):
    return measure_group(group(*samples), ITEM, embedders or {}, scorers or {}, **settings)


def test_counts_and_sums():
    measures = measured(
        sample("abc", logprob=-2.0, reference_logprob=-3.0),
        sample("ab", logprob=-1.0, reference_logprob=-1.5, finish_reason="length"),
        sample("", logprob=0.0, reference_logprob=0.0, finish_reason="nonfinite"),
    )
    assert (measures["samples"], measures["tokens"], measures["finished"]) == (3, 5, 1)
    assert (measures["logprob"], measures["reference_logprob"]) == (-3.0, -4.5)


@pytest.mark.parametrize("missing", [None, -math.inf, math.nan])
def test_a_sum_with_something_missing_is_none_and_json_stays_json(missing):
    measures = measured(sample("a", reference_logprob=-1.0), sample("b", reference_logprob=missing))
    assert measures["reference_logprob"] is None
    assert measures["logprob"] == -2.0
    json.dumps(measures, allow_nan=False)


def test_meaning_is_measured_by_every_embedder_and_order():
    texts = ["aab", "bbc", "cca"]
    measures = measured(
        *map(sample, texts), embedders={"one": embed, "two": lambda each: embed(each) ** 2}
    )
    for name, vectors in (("one", embed(texts)), ("two", embed(texts) ** 2)):
        assert measures["vendi"][name] == {
            "1": vendi(vectors),
            "2": vendi(vectors, 2.0),
            "inf": vendi(vectors, math.inf),
        }
        assert measures["similarity"][name] == mean_similarity(vectors)
    assert measures["cut"] == {"one": None, "two": None}


def test_an_embedder_that_reads_only_so_much_says_how_many_texts_were_longer():
    samples = [sample("a"), sample("b" * 21), sample("c" * 30)]
    assert measured(*samples, embedders={"short": Reader()})["cut"] == {"short": 2}


def test_an_empty_text_is_embedded_as_a_space():
    reader = Reader()
    measured(sample(""), sample("ab"), embedders={"r": reader})
    assert reader == [[" ", "ab"]]


def test_prefixes_are_compared_at_positions_that_two_samples_reach():
    long, middle, near, short = "abcdefgh" * 4, "hgfedcba" * 2, "aabbccddeeffggh", "abc"
    samples = map(sample, (long, middle, near, short))
    measures = measured(*samples, embedders={"e": embed})
    assert measures["dynamics"]["e"] == {
        "8": mean_similarity(embed([long[:8], middle[:8], near[:8]])),
        "16": mean_similarity(embed([long[:16], middle[:16]])),
        "32": None,
    }


def test_each_different_text_is_embedded_once():
    reader = Reader()
    measures = measured(
        sample("abcdefgh"), sample("abcdefghi"), sample("hgfedcba"), embedders={"e": reader}
    )
    assert reader == [["abcdefgh", "abcdefghi", "hgfedcba"]]
    same = mean_similarity(embed(["abcdefgh", "abcdefgh", "hgfedcba"]))
    assert measures["dynamics"]["e"] == {"8": same}


def test_samples_without_a_common_position_have_no_dynamics():
    reader = Reader()
    measures = measured(sample("abcdefgh"), sample("abc"), embedders={"e": reader})
    assert measures["dynamics"]["e"] == {"8": None}
    assert reader == [["abcdefgh", "abc"]]


def test_scores_are_summed_and_know_about_plain_text():
    scorer = Counter()
    assert isinstance(scorer, Scorer)
    measures = measured(sample("ab"), sample("abc"), scorers={"s": scorer}, plain_text=True)
    assert measures["nll"] == {"s": [8.0 * 5, 5]}
    assert scorer.calls == [True]


def test_scorers_may_read_the_first_samples_only():
    measures = measured(sample("ab"), sample("abc"), scorers={"s": Counter()}, score_samples=1)
    assert measures["nll"] == {"s": [8.0 * 2, 2]}
    assert measures["samples"] == 2


def test_words_are_measured_within_and_across():
    measures = measured(sample("a b a b"), sample("a b a b"))
    assert measures["distinct"]["within"] == pytest.approx({"1": 0.5, "2": 2 / 3, "3": 1.0})
    assert measures["distinct"]["across"] == pytest.approx({"1": 0.25, "2": 1 / 3, "3": 0.5})
    assert measures["self_bleu"] == pytest.approx(1)


def test_what_is_undefined_for_one_sample_is_none():
    measures = measured(sample("a"), embedders={"e": embed})
    assert measures["similarity"] == {"e": None}
    assert measures["self_bleu"] is None
    assert measures["distinct"]["within"]["2"] is None
    assert measures["vendi"]["e"]["1"] == pytest.approx(1)


def test_novelty_and_error_are_means_by_position_and_short():
    measures = measure_group(
        group(
            sample("abc", novelty=[None, 0.12345, 0.5]),
            sample("ab", novelty=[None, 0.2]),
            distiller_error=[None, 1.000049],
        ),
        ITEM,
        {},
        {},
    )
    assert measures["novelty"] == [None, 0.1617, 0.5]
    assert measures["distiller_error"] == [None, 1.0]
    assert measured(sample("a"))["novelty"] is None


@given(st.lists(st.text("abcdefgh ", max_size=40), min_size=1, max_size=5))
def test_any_group_gives_json_that_comes_back_the_same(texts):
    measures = measured(*map(sample, texts), embedders={"e": embed}, scorers={"s": Counter()})
    assert json.loads(json.dumps(measures, allow_nan=False)) == measures


def test_measures_do_not_depend_on_arm_or_neighbours():
    one = group(sample("ab ba"), sample("cd"))
    other = replace(one, arm="esamp", seed=4, batch=9)
    assert measure_group(one, ITEM, {"e": embed}, {}) == measure_group(
        other, ITEM, {"e": embed}, {}
    )


def test_an_embedding_without_a_direction_is_refused():
    with pytest.raises(UsageError, match="zero or not finite"):
        measured(sample("a"), embedders={"e": lambda texts: torch.zeros(len(texts), 3)})
