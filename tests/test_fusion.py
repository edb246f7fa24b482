import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esamp.fusion import across, fit, fuse_logits, fuse_survivors, onto, push_states
from esamp.method import Push
from esamp.sampling import top_k
from steps import random_states, random_step

ROWS, HIDDEN, VOCAB = 4, 6, 11
BETAS = st.floats(0, 4)
SEEDS = st.integers(0, 2**32)


def world(seed, bias=True, scale=1.0):
    """A head, and the states of some rows: real and predicted."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weight, offset = normal(VOCAB, HIDDEN), normal(VOCAB) * bias
    return (
        lambda states: scale * (states @ weight.T + offset),
        normal(ROWS, HIDDEN),
        normal(ROWS, HIDDEN),
    )


def dense(reference, distilled, beta):
    """The paper's definition (equation 6)."""
    return (1 + beta) * reference - beta * distilled


def test_the_definition_by_hand():
    fused = fuse_logits(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 2.0]]), 0.5)
    assert fused.tolist() == [[0.0, 2.0]]


@given(SEEDS, BETAS, st.booleans(), st.floats(0.1, 8))
def test_pushing_the_state_is_the_dense_formula_for_any_affine_head(seed, beta, bias, scale):
    """A bias cancels, a scale stays: one projection does for two."""
    head, deep, predicted = world(seed, bias, scale)
    pushed = push_states(deep, deep - predicted, torch.tensor(beta, dtype=torch.float64))
    torch.testing.assert_close(head(pushed), dense(head(deep), head(predicted), beta))


def test_each_row_has_its_own_strength():
    head, deep, predicted = world(0)
    betas = torch.tensor([0.0, 0.25, 1.0, 4.0], dtype=torch.float64)
    pushed = push_states(deep, deep - predicted, betas)
    torch.testing.assert_close(head(pushed), dense(head(deep), head(predicted), betas[:, None]))


@given(SEEDS, BETAS, st.floats(0.1, 3), st.integers(1, VOCAB))
def test_survivors_move_to_the_dense_formula_with_the_temperature_once(seed, beta, heat, kept):
    head, deep, predicted = world(seed)
    reference, fused = head(deep), dense(head(deep), head(predicted), beta)
    processed = top_k(reference / heat, kept)
    scores = fuse_survivors(processed, reference, fused, heat)
    survives = processed.isfinite()
    assert survives.sum() == ROWS * kept
    torch.testing.assert_close(scores[survives], (fused / heat)[survives])
    assert scores[~survives].isneginf().all()


def test_penalties_on_the_reference_stay_as_they_are():
    head, deep, predicted = world(0)
    reference, fused = head(deep), dense(head(deep), head(predicted), 0.25)
    penalty = torch.linspace(-1, 1, VOCAB, dtype=torch.float64)
    scores = fuse_survivors(reference / 0.7 + penalty, reference, fused, 0.7)
    torch.testing.assert_close(scores, fused / 0.7 + penalty)


def test_what_was_cut_away_stays_away_whatever_the_head_gave():
    """Also where the head itself gives −inf, as for padded vocabulary: −inf − −inf is NaN."""
    nothing = -torch.inf
    scores = fuse_survivors(
        processed=torch.tensor([[1.0, nothing, nothing, nothing]]),
        reference=torch.tensor([[1.0, 2.0, nothing, 0.0]]),
        fused=torch.tensor([[2.0, 9.0, nothing, torch.inf]]),
        temperature=1.0,
    )
    assert scores.tolist() == [[2.0, nothing, nothing, nothing]]


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_a_row_that_is_not_steered_keeps_its_scores_bit_for_bit(beta):
    """Predicted equals deep, or β is 0: both leave fused equal to the reference."""
    head, deep, _ = world(3)
    residual = torch.zeros_like(deep) if beta else deep
    reference = head(deep)
    fused = head(push_states(deep, residual, torch.tensor(beta, dtype=torch.float64)))
    processed = top_k(reference / 0.7, 4)
    assert torch.equal(fuse_survivors(processed, reference, fused, 0.7), processed)


def pushed_too_far(value):
    """A step and its push, of which one entry in row 1 is large."""
    step = random_step([0, 0, 0])
    states = step.deep + 1
    states[1, 2] = value
    return step, Push(states, torch.tensor([0.5, 0.6, torch.nan]))


@pytest.mark.parametrize("value", [65_536.0, -1e30])
def test_a_push_that_float16_cannot_hold_is_left_alone(value):
    step, push = pushed_too_far(value)
    states, novelty = fit(push, step, torch.float16)
    assert torch.equal(states[1], step.deep[1])
    assert torch.equal(states[[0, 2]], push.states[[0, 2]])
    assert torch.equal(novelty.isnan(), torch.tensor([False, True, True]))
    assert novelty[0] == push.novelty[0]


def test_a_push_that_float16_holds_stays_as_it_is():
    step, push = pushed_too_far(-65_504.0)
    states, novelty = fit(push, step, torch.float16)
    assert torch.equal(states, push.states)
    assert novelty.isnan().tolist() == [False, False, True]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_wider_types_hold_every_push(dtype):
    step, push = pushed_too_far(1e30)
    states, novelty = fit(push, step, dtype)
    assert states is push.states
    assert novelty is push.novelty


def test_a_push_without_novelty_can_be_left_alone_too():
    step, push = pushed_too_far(1e30)
    states, novelty = fit(push._replace(novelty=None), step, torch.float16)
    assert torch.equal(states[1], step.deep[1])
    assert novelty is None


@given(st.integers(0, 10**6))
def test_onto_and_across_take_a_state_apart(seed):
    states, axes = random_states(5, seed=seed), random_states(5, seed=seed + 1)
    axes[2] = 0
    along, beside = onto(states, axes), across(states, axes)
    torch.testing.assert_close(along + beside, states)
    torch.testing.assert_close((beside * axes).sum(dim=-1), torch.zeros(5), atol=1e-4, rtol=0)
    parallel = torch.nn.functional.cosine_similarity(along, axes).abs()
    torch.testing.assert_close(parallel, torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0]))
