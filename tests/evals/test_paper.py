import pytest

from esamp.errors import UsageError
from esamp.evals.paper import measures_of, read_paper

ARMS = ["vanilla", "esamp-paper", "min-p"]
WRITING = measures_of(16, ["simcse", "mini"], ["qwen"], verifiable=False)
MATH = measures_of(16, [], ["own"], verifiable=True)


def test_a_run_has_the_measures_that_its_summary_has():
    assert [
        *("pass@1", "pass@2", "pass@4", "pass@8", "pass@16"),
        *("maj@2", "maj@4", "maj@8", "maj@16", "perplexity:own", "tokens_per_second"),
    ] == MATH
    assert [
        *("vendi:simcse", "vendi:mini", "similarity:simcse", "similarity:mini"),
        *("perplexity:qwen", "tokens_per_second"),
    ] == WRITING


def test_percent_become_shares_and_other_numbers_stay():
    given = {"vanilla": {"pass@16": 27.7, "maj@8": 100, "tokens_per_second": 4557.7}}
    assert read_paper(given, ARMS, MATH) == {
        "vanilla": {"pass@16": 0.277, "maj@8": 1.0, "tokens_per_second": 4557.7}
    }


def test_measures_are_of_the_first_embedder_and_scorer_unless_another_is_named():
    given = {"vanilla": {"vendi": 1.62, "vendi:mini": 2, "similarity": 0.58, "perplexity": 4.08}}
    assert read_paper(given, ARMS, WRITING) == {
        "vanilla": {
            "vendi:simcse": 1.62, "vendi:mini": 2.0, "similarity:simcse": 0.58,
            "perplexity:qwen": 4.08,
        }
    }  # fmt: skip


def test_arms_are_known_by_what_they_are_and_not_by_how_they_are_written():
    given = {"vanilla(min_p=0.1)": {"vendi": 1.56}, "esamp-paper( beta=0.25 )": {"vendi": 1.67}}
    assert list(read_paper(given, ARMS, WRITING)) == ["min-p", "esamp-paper"]


WRONG = [
    ({"magic": {"vendi": 1}}, "there is no arm 'magic'"),
    ({"fire": {"vendi": 1}}, "paper, fire: this run has no such arm: leave it out, or give one of"),
    ({"vanilla": [1.62, 0.58]}, r"paper, vanilla: it is \[1.62, 0.58\]: give measures and"),
    ({"vanilla": {"rank": 1}}, "paper, vanilla, rank: there is no such measure: give pass@K"),
    ({"vanilla": {"pass@16": 30}}, "pass@16: this run does not measure it: .* vendi:simcse"),
    ({"vanilla": {"vendi:mpnet": 2}}, "vendi:mpnet: this run does not measure it"),
    ({"vanilla": {"vendi": "1.62"}}, "paper, vanilla, vendi: it is '1.62': give a number"),
    ({"vanilla": {"vendi": True}}, "give a number"),
    ({"vanilla": {"vendi": float("nan")}}, "give a number"),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_what_the_run_does_not_have_is_refused(given, message):
    with pytest.raises(UsageError, match=message):
        read_paper(given, ARMS, WRITING)


@pytest.mark.parametrize("value", [-1, 101, 3170])
def test_a_share_is_in_percent(value):
    with pytest.raises(UsageError, match=f"pass@16: it is {value}: give percent, from 0 to 100"):
        read_paper({"vanilla": {"pass@16": value}}, ARMS, MATH)


def test_what_the_run_does_not_have_may_be_left_out():
    given = {
        "vanilla": {"vendi": 1.62, "pass@16": 30.3, "vendi:mpnet": 2.0},
        "fire": {"vendi": 1.0},
        "min-p": {"pass@64": 73.3},
    }
    assert read_paper(given, ARMS, WRITING, partly=True) == {"vanilla": {"vendi:simcse": 1.62}}


@pytest.mark.parametrize("given", [{"magic": {"vendi": 1}}, {"vanilla": {"rank": 1}}])
def test_what_does_not_exist_is_refused_in_any_case(given):
    with pytest.raises(UsageError):
        read_paper(given, ARMS, WRITING, partly=True)
