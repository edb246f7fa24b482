import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from esamp.errors import UsageError
from esamp.fusion import fuse_logits, fuse_survivors
from esamp.sampling import Uniforms, draw, min_p, pick_best, row_key, top_k, top_p

NEVER = -torch.inf
LARGEST = 1 - 2**-24
"""The largest number that torch.rand can give."""


def logits_of(*probabilities):
    return torch.tensor([probabilities]).log()


def kept(scores):
    return scores[0].isfinite().tolist()


def random_logits(rows=50, vocab=100, seed=0):
    return 3 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


# -- truncation ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (1, [False, True, False, False]),
        (2, [True, True, True, False]),  # the two at .25 are equal
        (4, [True, True, True, True]),
        (9, [True, True, True, True]),
        (0, [True, True, True, True]),
    ],
)
def test_top_k_by_hand(k, expected):
    assert kept(top_k(logits_of(0.25, 0.4, 0.25, 0.1), k)) == expected


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (0.01, [False, True, False, False]),
        (0.45, [False, True, False, False]),
        (0.55, [True, True, False, False]),
        (0.85, [True, True, True, False]),
        (1.0, [True, True, True, True]),
    ],
)
def test_top_p_by_hand(p, expected):
    assert kept(top_p(logits_of(0.3, 0.5, 0.15, 0.05), p)) == expected


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (0.0, [True, True, True, True]),
        (0.09, [True, True, True, True]),
        (0.2, [True, True, True, False]),
        (0.5, [True, True, False, False]),
        (1.0, [False, True, False, False]),
    ],
)
def test_min_p_by_hand(p, expected):
    assert kept(min_p(logits_of(0.3, 0.5, 0.15, 0.05), p)) == expected


@pytest.mark.parametrize(
    ("truncate", "warper", "values"),
    [
        (top_k, "TopKLogitsWarper", [1, 5, 99, 100]),
        (top_p, "TopPLogitsWarper", [0.05, 0.3, 0.9, 0.999]),
        (min_p, "MinPLogitsWarper", [0.01, 0.1, 0.7, 1.0]),
    ],
)
def test_truncation_is_that_of_transformers(truncate, warper, values):
    process = pytest.importorskip("transformers.generation.logits_process")
    for value in values:
        logits = random_logits()
        theirs = getattr(process, warper)(value)(None, logits.clone())
        assert torch.equal(truncate(logits, value), theirs)


@pytest.mark.parametrize(
    ("truncate", "value"),
    [(top_k, -1), (top_p, 0.0), (top_p, 1.1), (min_p, -0.1), (min_p, 1.1), (top_p, float("nan"))],
)
def test_truncation_out_of_range_is_refused(truncate, value):
    with pytest.raises(UsageError, match=f"{truncate.__name__} is {value}: give"):
        truncate(logits_of(0.5, 0.5), value)


# -- the draw --------------------------------------------------------------------------------


def assert_drawn_from(probabilities, tokens):
    """Chi-square against what was expected; what has no probability was never drawn."""
    counts = torch.bincount(tokens, minlength=len(probabilities))
    possible = probabilities > 0
    assert not counts[~possible].any()
    expected = probabilities[possible] * len(tokens)
    assert stats.chisquare(counts[possible].numpy(), expected.numpy()).pvalue > 1e-3


def draw_many(scores, draws=40_000, seed=0):
    uniforms = torch.rand(draws, generator=torch.Generator().manual_seed(seed))
    return draw(scores.expand(draws, -1), uniforms)


@pytest.mark.parametrize("seed", range(3))
def test_tokens_follow_the_softmax(seed):
    scores = random_logits(1, 12, seed) / 2
    scores[0, [0, 5, 11]] = NEVER
    drawn = draw_many(scores)
    assert_drawn_from(scores[0].double().softmax(dim=-1), drawn.tokens)


def test_the_chi_square_notices_another_temperature():
    scores = random_logits(1, 12) / 2
    with pytest.raises(AssertionError):
        assert_drawn_from((scores[0] / 0.95).double().softmax(dim=-1), draw_many(scores).tokens)


def test_truncation_on_the_reference_samples_the_papers_distribution():
    """Survivors of top-k on the reference, at (1+β)·reference − β·distilled, over T."""
    beta, temperature, k = 0.7, 0.8, 6
    reference, distilled = random_logits(2, 15, seed=4).split(1)
    processed = top_k(reference / temperature, k)
    fused = fuse_logits(reference, distilled, beta)
    drawn = draw_many(fuse_survivors(processed, reference, fused, temperature))

    p, q = reference[0].double().softmax(dim=-1), distilled[0].double().softmax(dim=-1)
    weights = (p.pow(1 + beta) / q.pow(beta)).pow(1 / temperature)
    weights[p < p.sort(descending=True).values[k - 1]] = 0
    assert_drawn_from(weights / weights.sum(), drawn.tokens)


@given(
    st.integers(0, 2**32),
    st.sampled_from([0.0, LARGEST, 0.5]),
    st.sampled_from([2, 17, 50_000]),
)
def test_a_token_that_was_cut_away_is_never_drawn(seed, uniform, vocab):
    """Not even at the ends of the unit interval, where the first or last tokens are cut away."""
    generator = torch.Generator().manual_seed(seed)
    scores = 5 * torch.randn(4, vocab, generator=generator)
    cut = torch.rand(4, vocab, generator=generator) < 0.9
    cut[:, [0, -1]] = True
    cut[torch.arange(4), torch.randint(vocab, (4,), generator=generator)] = False
    drawn = draw(scores.masked_fill(cut, NEVER), torch.full((4,), uniform))
    assert not cut.gather(1, drawn.tokens[:, None]).any()
    assert drawn.logprobs.isfinite().all()


def test_a_larger_uniform_number_never_draws_an_earlier_token():
    scores, uniforms = random_logits(1, 30).expand(1000, -1), torch.linspace(0, LARGEST, 1000)
    tokens = draw(scores, uniforms).tokens
    assert (tokens.diff() >= 0).all()
    assert tokens[0] == 0
    assert tokens[-1] == 29


def test_logprobs_are_those_of_the_softmax():
    scores = top_p(random_logits(), 0.9)
    drawn = draw(scores, torch.rand(50))
    expected = scores.log_softmax(dim=-1).gather(1, drawn.tokens[:, None])[:, 0]
    torch.testing.assert_close(drawn.logprobs, expected)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, NEVER])
def test_a_row_without_a_distribution_has_no_logprob_and_troubles_no_other(bad):
    scores = random_logits(3, 20)
    expected = draw(scores.clone(), torch.full((3,), 0.3))
    scores[1] = bad
    drawn = draw(scores, torch.full((3,), 0.3))
    assert drawn.logprobs.isnan().tolist() == [False, True, False]
    assert 0 <= drawn.tokens[1] < 20
    assert torch.equal(drawn.tokens[[0, 2]], expected.tokens[[0, 2]])
    assert torch.equal(drawn.logprobs[[0, 2]], expected.logprobs[[0, 2]])


def test_drawing_leaves_the_scores_as_they_are():
    scores = random_logits()
    before = scores.clone()
    draw(scores, torch.rand(50))
    assert torch.equal(scores, before)


def test_the_best_token_and_its_logprob():
    best = pick_best(logits_of(0.2, 0.7, 0.1))
    assert best.tokens.tolist() == [1]
    assert best.logprobs.exp().item() == pytest.approx(0.7)


# -- streams of numbers ----------------------------------------------------------------------


def numbers(keys, count):
    stream = Uniforms(keys)
    return torch.stack([stream.next() for _ in range(count)])


LONG = 3 * Uniforms.BLOCK + 5
"""Over several blocks, and not a whole number of them."""


def test_a_stream_depends_on_its_key_and_not_on_its_neighbours():
    together = numbers([3, 7, 5], LONG)
    assert torch.equal(numbers([3, 7, 5], LONG), together)
    assert torch.equal(numbers([7], LONG)[:, 0], together[:, 1])
    assert torch.equal(numbers([5, 3], LONG), together[:, [2, 0]])


def test_streams_of_different_keys_differ_and_no_block_comes_twice():
    streams = numbers(range(20), LONG)
    assert len(streams.unique()) > 0.999 * streams.numel()


def test_numbers_are_uniform_and_independent_of_the_ones_before():
    streams = numbers([row_key(0, (1, 2), sample) for sample in range(64)], 256).double()
    assert (streams >= 0).all()
    assert (streams <= LARGEST).all()
    assert stats.kstest(streams.flatten().numpy(), "uniform").pvalue > 1e-3
    for pairs in ((streams[:-1], streams[1:]), (streams[:, :-1], streams[:, 1:])):
        one, other = (each.flatten().numpy() for each in pairs)
        assert stats.pearsonr(one, other).pvalue > 1e-3


def test_a_stream_draws_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    numbers([1], LONG)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_rows_key_differs_by_seed_prompt_and_sample():
    keys = [
        row_key(seed, prompt, sample)
        for seed in (0, 1, 11)
        for prompt in ((), (1,), (1, 1), (11,), (1, 11), (11, 1))
        for sample in (0, 1, 11)
    ]
    assert len(set(keys)) == len(keys)
    assert row_key(1, (11,), 1) == row_key(1, [11], 1)
    assert all(0 <= key < 2**63 for key in keys)
