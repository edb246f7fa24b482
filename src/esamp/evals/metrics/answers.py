"""Samples that can be right or wrong: pass@k, maj@k, distinct answers.

All are exact expectations over k samples drawn without replacement from the n at hand.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from esamp.errors import UsageError


def pass_at_k(samples: int, correct: int, k: int) -> float | None:
    """Return the probability that at least one of k drawn samples is right.

    1 − C(n−c, k)/C(n, k), the unbiased estimator (Chen et al., 2021, arXiv 2107.03374), in whole
    numbers up to one division, so it is exact to the last bit.

    Args:
        samples: n, how many samples there are.
        correct: c, how many of them are right.
        k: How many are drawn.

    Returns:
        None where n < k: nothing is known of more samples than there are.

    Raises:
        UsageError: k is below 1, or correct is not between 0 and samples.
    """
    _check_k(k)
    if not 0 <= correct <= samples:
        raise UsageError(f"correct is {correct} of {samples} samples: give 0 to {samples}")
    if samples < k:
        return None
    draws = math.comb(samples, k)
    return (draws - math.comb(samples - correct, k)) / draws


def maj_at_k(answers: Sequence[str | None], correct: Sequence[bool], k: int) -> float | None:
    """Return the probability that a vote among k drawn samples is right; see `maj_at_ks`."""
    return maj_at_ks(answers, correct, [k])[0]


def maj_at_ks(
    answers: Sequence[str | None], correct: Sequence[bool], ks: Sequence[int]
) -> list[float | None]:
    """Return for each k the probability that the most frequent answer of k drawn samples is right.

    Exact up to rounding: counted, not drawn. Answers that tie share the vote evenly. A sample
    without an answer (None) is drawn like any other but does not vote; a draw without any answer is
    wrong. Where samples of one answer are judged differently (one timed out), the answer counts by
    the share of them that is right. Source: majority voting as in Wang et al., 2023, arXiv
    2203.11171; the count is ours.

    Args:
        answers: Final answer of each sample, in a normal form: equal answers are equal strings.
        correct: Whether each sample is right.
        ks: How many samples are drawn.

    Returns:
        None for each k above the number of samples.

    Raises:
        UsageError: A k is below 1, or the two lists differ in length.
    """
    for k in ks:
        _check_k(k)
    if len(answers) != len(correct):
        raise UsageError(f"there are {len(answers)} answers and {len(correct)} verdicts: pair them")
    votes = Counter(answer for answer in answers if answer is not None)
    hits = Counter(a for a, good in zip(answers, correct, strict=True) if good and a is not None)
    right = {answer: count / votes[answer] for answer, count in hits.items()}
    return [_winning_share(len(answers), votes, right, k) for k in ks]


def distinct_answers(answers: Sequence[str | None]) -> int:
    """Return how many different answers there are; a sample without one adds none."""
    return len({answer for answer in answers if answer is not None})


def _winning_share(
    samples: int, votes: Mapping[str, int], right: Mapping[str, float], k: int
) -> float | None:
    """Return the probability that a right answer wins the vote of k drawn samples.

    Drawing each sample with probability p on its own, and keeping the draws of k samples, is the
    same as drawing k: so answers are independent and are convolved one by one, and at p near k/n
    every number is a probability of ordinary size. For each right answer and each count t that it
    may win with, all other answers are drawn at most t times. Those with fewer than t samples, and
    samples without an answer, are free and go together. A win that is tied with s others counts
    1/(s + 1).
    """
    if k > samples:
        return None
    p = k / (samples + 1)
    won = 0.0
    for answer, share in sorted(right.items()):
        own = _binomial(votes[answer], p, k)
        for t in range(1, min(votes[answer], k) + 1):
            rivals = [count for other, count in votes.items() if other != answer and count >= t]
            rest, ties = k - t, (k - t) // t
            # table[j, s]: j samples of others are drawn, and s of the rivals tie at t.
            table = np.zeros((rest + 1, ties + 1))
            table[:, 0] = _binomial(samples - votes[answer] - sum(rivals), p, rest)
            for count in rivals:
                table = _with_rival(table, _binomial(count, p, rest), t)
            won += share * own[t] * float((table[rest] / np.arange(1, ties + 2)).sum())
    return float(won / _binomial(samples, p, k)[k])


def _with_rival(
    table: Float[np.ndarray, "drawn ties"], chances: Float[np.ndarray, " drawn"], t: int
) -> Float[np.ndarray, "drawn ties"]:
    """Return the table with one more answer in it, which is drawn at most t times."""
    drawn, ties = table.shape
    wider = np.zeros_like(table)
    for j in range(min(t, drawn)):
        wider[j:] += table[: drawn - j] * chances[j]
    if t < drawn and ties > 1:
        wider[t:, 1:] += table[: drawn - t, :-1] * chances[t]
    return wider


@lru_cache(maxsize=4096)
def _binomial(count: int, p: float, most: int) -> Float[np.ndarray, " outcomes"]:
    """Return the probabilities that 0 to `most` of `count` samples are drawn."""
    chances = np.zeros(most + 1)
    for j in range(min(count, most) + 1):
        ways = math.lgamma(count + 1) - math.lgamma(j + 1) - math.lgamma(count - j + 1)
        chances[j] = math.exp(ways + j * math.log(p) + (count - j) * math.log1p(-p))
    chances.flags.writeable = False  # shared by all callers
    return chances


def _check_k(k: int) -> None:
    if k < 1:
        raise UsageError(f"k is {k}: give 1 or more")
