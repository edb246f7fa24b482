import math
from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esamp.errors import UsageError
from esamp.evals.metrics import distinct_answers, maj_at_k, maj_at_ks, pass_at_k

# -- pass@k ----------------------------------------------------------------------------------


def drawn_by_hand(verdicts, k):
    """Every draw of k samples, one by one."""
    draws = list(combinations(verdicts, k))
    return sum(map(any, draws)) / len(draws)


def product_form(samples, correct, k):
    """The stable form that human-eval's estimator is known by, written anew."""
    if samples - correct < k:
        return 1.0
    return 1.0 - float(np.prod(1.0 - k / np.arange(samples - correct + 1, samples + 1)))


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_right_sample(counts, data):
    samples, correct = counts
    k = data.draw(st.integers(1, samples))
    verdicts = [True] * correct + [False] * (samples - correct)
    assert pass_at_k(samples, correct, k) == pytest.approx(drawn_by_hand(verdicts, k), abs=1e-15)


@given(st.integers(1, 400), st.data())
def test_pass_at_k_is_human_evals_estimator(samples, data):
    correct = data.draw(st.integers(0, samples))
    k = data.draw(st.integers(1, samples))
    assert pass_at_k(samples, correct, k) == pytest.approx(
        product_form(samples, correct, k), abs=1e-12
    )


@pytest.mark.parametrize(
    ("samples", "correct", "k", "expected"),
    [(64, 0, 64, 0.0), (64, 1, 64, 1.0), (64, 1, 1, 1 / 64), (2, 1, 2, 1.0), (4, 2, 2, 5 / 6)],
)
def test_pass_at_k_by_hand(samples, correct, k, expected):
    assert pass_at_k(samples, correct, k) == expected


def test_pass_at_k_of_very_many_samples_is_still_exact():
    """C(10000, 5000) is beyond fp64."""
    assert pass_at_k(10_000, 1, 5_000) == 0.5


def test_fewer_samples_than_k_leave_it_undefined():
    assert pass_at_k(3, 3, 4) is None
    assert pass_at_k(0, 0, 1) is None


@given(st.integers(2, 64), st.data())
def test_more_draws_and_more_right_samples_never_lower_it(samples, data):
    correct = data.draw(st.integers(0, samples - 1))
    values = [pass_at_k(samples, correct, k) for k in range(1, samples + 1)]
    assert all(fewer <= more for fewer, more in pairwise(values))
    better = [pass_at_k(samples, correct + 1, k) for k in range(1, samples + 1)]
    assert all(low <= high for low, high in zip(values, better, strict=True))
    assert values[0] == pytest.approx(correct / samples)


@pytest.mark.parametrize(("samples", "correct", "k"), [(3, 4, 1), (3, -1, 1), (3, 1, 0)])
def test_impossible_counts_are_refused(samples, correct, k):
    with pytest.raises(UsageError, match=r"(correct|k) is"):
        pass_at_k(samples, correct, k)


# -- maj@k -----------------------------------------------------------------------------------


def vote_by_hand(answers, correct, k):
    """Every draw of k samples, one by one; ties are split evenly."""
    right = dict(zip(answers, correct, strict=True))
    total = 0.0
    draws = list(combinations(answers, k))
    for draw in draws:
        votes = Counter(answer for answer in draw if answer is not None)
        best = [answer for answer in votes if votes[answer] == max(votes.values())]
        total += sum(right[answer] for answer in best) / len(best) if best else 0.0
    return total / len(draws)


ANSWERS = st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=1, max_size=9)


@given(ANSWERS, st.sets(st.sampled_from(["a", "b", "c"])))
def test_maj_at_k_is_the_vote_over_all_draws(answers, right):
    correct = [answer in right for answer in answers]
    ks = list(range(1, len(answers) + 1))
    expected = [vote_by_hand(answers, correct, k) for k in ks]
    assert maj_at_ks(answers, correct, ks) == pytest.approx(expected, abs=1e-12)


def test_maj_at_k_by_hand():
    """Of three votes two of the same win; of two different ones each wins half."""
    answers, correct = ["7", "7", "8"], [True, True, False]
    assert maj_at_ks(answers, correct, [1, 2, 3, 4]) == pytest.approx(
        [2 / 3, (1 + 1 / 2 + 1 / 2) / 3, 1.0, None]
    )


def test_samples_without_an_answer_do_not_vote_but_are_drawn():
    answers, correct = [None, None, None, "7"], [False, False, False, True]
    assert maj_at_ks(answers, correct, [1, 2, 4]) == pytest.approx([1 / 4, 1 / 2, 1.0])
    assert maj_at_k([None, None], [False, False], 2) == 0.0


def test_an_answer_that_is_judged_both_ways_counts_by_its_share():
    assert maj_at_k(["7"] * 4, [True, True, True, False], 4) == pytest.approx(0.75)


@given(st.integers(1, 40), st.data())
def test_maj_at_one_is_pass_at_one(samples, data):
    answers = data.draw(st.lists(st.sampled_from("abc"), min_size=samples, max_size=samples))
    correct = [answer == "a" for answer in answers]
    assert maj_at_k(answers, correct, 1) == pytest.approx(pass_at_k(samples, sum(correct), 1))


@pytest.mark.parametrize("samples", [64, 1024, 3000])
def test_a_vote_among_many_samples_of_two_kinds_is_the_hypergeometric_tail(samples):
    right, k = samples * 2 // 3, 33
    answers = ["a"] * right + ["b"] * (samples - right)
    tail = sum(
        math.comb(right, t) * math.comb(samples - right, k - t) for t in range(k // 2 + 1, k + 1)
    ) / math.comb(samples, k)
    assert maj_at_k(answers, [each == "a" for each in answers], k) == pytest.approx(tail, rel=1e-9)


def test_many_answers_that_all_differ():
    """Everything ties, so the right one wins when it is drawn, as one of k."""
    answers = [str(number) for number in range(64)]
    correct = [answer == "5" for answer in answers]
    assert maj_at_ks(answers, correct, [1, 8, 64]) == pytest.approx([1 / 64] * 3)


def test_votes_that_cannot_be_paired_are_refused():
    with pytest.raises(UsageError, match="2 answers and 1 verdicts"):
        maj_at_k(["a", "b"], [True], 1)
    with pytest.raises(UsageError, match="k is 0"):
        maj_at_k(["a"], [True], 0)


def test_distinct_answers_leave_out_what_is_none():
    assert distinct_answers(["a", "b", "a", None, None]) == 2
    assert distinct_answers([None]) == 0
