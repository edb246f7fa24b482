from itertools import pairwise

import pytest
import torch
from torch.nn.functional import cosine_similarity

from esamp import UsageError
from esamp.baselines import RandomSteering
from steps import HIDDEN, no_tokens, random_step
from toy import call_of

GROUPS = [0, 0, 0, 1, 1, 1]


def start(groups=GROUPS, seed=0, **settings):
    return RandomSteering(**{"beta": 0.5} | settings).start(call_of(groups, seed))


def test_the_push_is_a_share_of_deeps_length_and_stands_at_right_angles_to_it():
    step = random_step(GROUPS)
    steering = start()
    push = steering.steer(step).states - step.deep
    own = steering._vectors
    along = (own * step.deep).sum(dim=-1) / step.deep.norm(dim=-1)
    torch.testing.assert_close((push * step.deep).sum(dim=-1), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(own.norm(dim=-1), torch.ones(6))
    expected = 0.5 * step.deep.norm(dim=-1) * (1 - along.square()).sqrt()
    torch.testing.assert_close(push.norm(dim=-1), expected)


def test_each_sample_keeps_a_vector_of_its_own():
    steering = start()
    kept = steering._vectors.clone()
    for seed in range(5):
        step = random_step(GROUPS, seed=seed)
        steering.steer(step)
        steering.learn(step, no_tokens(step))
    assert torch.equal(steering._vectors, kept)
    similar = cosine_similarity(kept[:, None], kept[None], dim=-1).fill_diagonal_(0)
    assert similar.abs().max() < 0.99


def test_vectors_are_drawn_anew_when_their_time_is_over():
    steering, step = start(lasting=3), random_step(GROUPS)
    seen = []
    for _ in range(7):
        seen.append(steering._vectors.clone())
        steering.learn(step, no_tokens(step))
    changes = [not torch.equal(one, other) for one, other in pairwise(seen)]
    assert changes == [False, False, True, False, False, True]
    torch.testing.assert_close(steering._vectors.norm(dim=-1), torch.ones(6))


def test_vectors_have_no_direction_in_common():
    many = start([0] * 2000)._vectors
    assert many.mean(dim=0).norm() < 4 / len(many) ** 0.5
    assert (many.T @ many / len(many)).diagonal().max() < 1.3 / HIDDEN


def test_a_samples_vector_depends_on_its_prompt_its_number_and_the_seed_alone():
    alone, crowd = start([1, 1, 1])._vectors, start()._vectors
    assert torch.equal(alone, crowd[3:])
    assert not torch.allclose(start(seed=1)._vectors, crowd)


def test_requests_may_have_their_own_strength():
    beta = torch.tensor([0.0, 0.5, 1.0, 0.5, 0.5, 0.5])
    own, plain = random_step(GROUPS, beta=beta), random_step(GROUPS)
    push = start().steer(own).states - own.deep
    usual = start().steer(plain).states - plain.deep
    assert not push[0].any()
    torch.testing.assert_close(push[1:], usual[1:] * (beta[1:, None] / 0.5))


def test_a_row_that_is_not_finite_keeps_its_state():
    step = random_step(GROUPS)
    step.deep[2, 0] = torch.nan
    push = start().steer(step)
    assert torch.equal(push.states[2].isnan(), step.deep[2].isnan())
    assert push.states[[0, 1, 3, 4, 5]].isfinite().all()


@pytest.mark.parametrize("wrong", [{"beta": -1.0}, {"lasting": -1}, {"beta": float("nan")}])
def test_a_wrong_setting_is_refused(wrong):
    name = next(iter(wrong))
    with pytest.raises(UsageError, match=f"{name} is"):
        RandomSteering(**wrong)
