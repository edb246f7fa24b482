import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from vendi_score.vendi import score_dual, score_K

from esamp.errors import UsageError
from esamp.evals.metrics.diversity import (
    distinct_n,
    distinct_within,
    mean_similarity,
    vendi,
)

ORDERS = [0.0, 0.5, 1.0, 2.0, math.inf]
SEEDS = st.integers(0, 2**32)


def embeddings(samples, width, seed=0):
    """Directions with a common part, as sentence embeddings have; their lengths vary."""
    generator = torch.Generator().manual_seed(seed)
    states = 0.5 + torch.randn(samples, width, generator=generator)
    return states * torch.rand(samples, 1, generator=generator).add(0.1)


def cosines(vectors):
    unit = torch.nn.functional.normalize(vectors.double(), dim=-1)
    return (unit @ unit.T).numpy()


# -- Vendi -----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("samples", [1, 3, 20])
def test_samples_that_are_all_the_same_count_as_one(order, samples):
    assert vendi(embeddings(1, 5).expand(samples, -1), order) == pytest.approx(1)


@pytest.mark.parametrize("order", ORDERS)
def test_orthogonal_samples_all_count(order):
    assert vendi(7.0 * torch.eye(6, 9), order) == pytest.approx(6)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (0.0, 2),
        (1.0, math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))),
        (2.0, 1 / (0.75**2 + 0.25**2)),
        (math.inf, 1 / 0.75),
    ],
)
def test_two_clusters_of_nine_and_three(order, expected):
    clusters = torch.eye(2, 5)[[0] * 9 + [1] * 3]
    assert vendi(clusters, order) == pytest.approx(expected)


@pytest.mark.parametrize("cosine", [0.0, 0.3, -0.3, 0.9])
def test_two_samples_at_an_angle(cosine):
    """The eigenvalues are (1 ± cos)/2."""
    pair = torch.tensor([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]])
    shares = [(1 + cosine) / 2, (1 - cosine) / 2]
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert vendi(pair) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("order", [1, 2, math.inf])
@pytest.mark.parametrize(("samples", "width"), [(8, 32), (40, 6), (12, 12)])
def test_it_is_the_vendi_score_of_its_authors(order, samples, width):
    """Against both of their forms. (Their `score_X` does not hand the order on.)"""
    vectors = embeddings(samples, width)
    ours = vendi(vectors, float(order))
    q = "inf" if order == math.inf else order
    assert ours == pytest.approx(score_K(cosines(vectors), q=q), rel=1e-6)
    assert ours == pytest.approx(score_dual(vectors.double().numpy(), q=q), rel=1e-6)


@given(SEEDS, st.integers(1, 12), st.integers(1, 6), st.sampled_from(ORDERS))
def test_it_lies_between_one_and_the_number_of_samples_or_dimensions(seed, samples, width, order):
    score = vendi(embeddings(samples, width, seed), order)
    assert 1 - 1e-6 <= score <= min(samples, width) + 1e-6


@given(SEEDS)
def test_neither_order_nor_length_nor_doubling_every_sample_matters(seed):
    vectors = embeddings(7, 10, seed)
    score = vendi(vectors)
    assert vendi(vectors.flip(0)) == pytest.approx(score)
    assert vendi(vectors * torch.arange(1, 8)[:, None]) == pytest.approx(score, rel=1e-5)
    assert vendi(torch.cat([vectors, vectors])) == pytest.approx(score)


@given(SEEDS)
def test_a_higher_order_never_counts_more(seed):
    scores = [vendi(embeddings(7, 10, seed), order) for order in ORDERS]
    assert all(lower >= higher - 1e-9 for lower, higher in pairwise(scores))


@pytest.mark.parametrize("order", [-1.0, math.nan])
def test_an_order_that_is_none_is_refused(order):
    with pytest.raises(UsageError, match=f"order is {order}"):
        vendi(torch.eye(2), order)


# -- mean similarity -------------------------------------------------------------------------


def test_mean_similarity_is_over_pairs_of_different_samples():
    """Three samples: two alike, one opposed to both."""
    assert mean_similarity(torch.tensor([[1.0, 0.0], [5.0, 0.0], [-2.0, 0.0]])) == pytest.approx(
        (1 - 1 - 1) / 3
    )
    assert mean_similarity(torch.eye(4)) == pytest.approx(0)


def test_mean_similarity_is_the_mean_off_the_diagonal():
    vectors = embeddings(9, 20)
    matrix = cosines(vectors)
    expected = (matrix.sum() - matrix.trace()) / (9 * 8)
    assert mean_similarity(vectors) == pytest.approx(expected)


# -- what has no direction -------------------------------------------------------------------


@pytest.mark.parametrize("measure", [vendi, mean_similarity])
@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_a_vector_without_a_direction_is_refused(measure, bad):
    vectors = embeddings(3, 4)
    vectors[1] = bad
    with pytest.raises(UsageError, match="an embedding is zero or not finite"):
        measure(vectors)


@pytest.mark.parametrize(("measure", "least"), [(vendi, 1), (mean_similarity, 2)])
def test_too_few_samples_are_refused(measure, least):
    with pytest.raises(UsageError, match=f"there are {least - 1} samples: give at least {least}"):
        measure(embeddings(3, 4)[: least - 1])


# -- distinct n-grams ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sequences", "n", "expected"),
    [
        ([[1, 2, 1, 2]], 1, 2 / 4),
        ([[1, 2, 1, 2]], 2, 2 / 3),
        ([[1, 2, 3], [1, 2, 4]], 2, 3 / 4),
        ([[1, 2, 3], [4, 5, 6]], 3, 1.0),
        ([[1], [2, 3]], 2, 1.0),  # the first is too short to have one
    ],
)
def test_distinct_n_by_hand(sequences, n, expected):
    assert distinct_n(sequences, n) == pytest.approx(expected)


@pytest.mark.parametrize("sequences", [[], [[]], [[1], [2]]])
def test_distinct_n_of_nothing_is_none_and_not_a_number(sequences):
    assert distinct_n(sequences, 2) is None


def test_no_gram_reaches_over_the_end_of_a_sequence():
    assert distinct_n([[1, 2], [1, 2]], 2) == 0.5


@pytest.mark.parametrize("n", [0, -1])
def test_an_n_below_one_is_refused(n):
    with pytest.raises(UsageError, match=f"n is {n}"):
        distinct_n([[1, 2, 3]], n)


def test_distinct_within_is_the_mean_of_each_sample_alone():
    """Samples that are all alike do not repeat themselves by that; those too short are left out."""
    assert distinct_within([list("abc"), list("abc")], 2) == 1.0
    assert distinct_within([list("aaa"), list("abc"), ["a"]], 2) == pytest.approx((1 / 2 + 1) / 2)
    assert distinct_within([["a"], []], 2) is None
