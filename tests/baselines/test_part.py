import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esamp import ESamp, MeanDistiller, UsageError
from esamp.baselines import Part
from esamp.baselines.part import split
from steps import no_tokens, random_states, random_step
from toy import call_of

GROUPS = [0, 0, 0, 1, 1, 1]
PARTS = ("deep", "mean", "rest")


def taught(method):
    steering, step = method.start(call_of(GROUPS)), random_step(GROUPS, seed=1)
    steering.steer(step)
    steering.learn(step, no_tokens(step))
    return steering


@given(st.integers(0, 10**6))
def test_parts_add_up_and_stand_at_right_angles(seed):
    residual, deep, mean = (random_states(5, seed=3 * seed + each) for each in range(3))
    parts = split(residual, deep, mean)
    torch.testing.assert_close(sum(parts.values()), residual)
    for one in PARTS:
        for other in set(PARTS) - {one}:
            dots = (parts[one] * parts[other]).sum(dim=-1)
            torch.testing.assert_close(dots, torch.zeros(5), atol=1e-5, rtol=0)
    for kept in ("mean", "rest"):
        assert ((parts[kept] * deep).sum(dim=-1).abs() < 1e-4).all()
    assert ((parts["rest"] * mean).sum(dim=-1).abs() < 1e-4).all()


def test_before_the_first_state_there_is_no_mean_to_push_along():
    residual, deep = random_states(4, seed=1), random_states(4, seed=2)
    parts = split(residual, deep, torch.zeros_like(deep))
    assert torch.equal(parts["mean"], torch.zeros_like(deep))
    torch.testing.assert_close(parts["deep"] + parts["rest"], residual)


def test_pushes_of_the_parts_add_up_to_esamps():
    esamp, step = ESamp(beta=0.5), random_step(GROUPS)
    whole = taught(esamp).steer(step).states - step.deep
    parts = [taught(Part(esamp=esamp, kept=kept)).steer(step).states - step.deep for kept in PARTS]
    torch.testing.assert_close(sum(parts), whole)
    assert all(part.norm(dim=-1).min() > 1e-3 for part in parts)


def test_an_orthogonal_push_is_all_but_the_part_along_deep():
    step = random_step(GROUPS)
    whole = taught(ESamp(beta=0.5, push="orthogonal")).steer(step).states - step.deep
    parts = [
        taught(Part(esamp=ESamp(beta=0.5), kept=kept)).steer(step).states - step.deep
        for kept in ("mean", "rest")
    ]
    torch.testing.assert_close(whole, sum(parts))


def test_mean_only_has_no_rest():
    method = Part(esamp=ESamp(beta=0.5, distiller=MeanDistiller()), kept="rest")
    step = random_step(GROUPS)
    push = taught(method).steer(step)
    torch.testing.assert_close(push.states, step.deep)
    torch.testing.assert_close(push.novelty, torch.zeros(6), atol=1e-5, rtol=0)


def test_along_deep_logits_keep_their_order():
    step = random_step(GROUPS)
    states = taught(Part(kept="deep")).steer(step).states
    ratio = states / step.deep
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))


def test_distillers_learn_what_esamps_learn():
    step = random_step(GROUPS)
    step.deep[0] = torch.nan
    banks = []
    for method in (ESamp(), Part()):
        steering = taught(method)
        steering.steer(step)
        steering.learn(step, no_tokens(step))
        banks.append(steering)
    assert torch.equal(banks[0].bank.weights, banks[1].bank.weights)
    assert banks[1]._mean.total.isfinite().all()
    assert banks[1]._mean.count[:, 0].tolist() == [5.0, 6.0]


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_part_is_refused():
    with pytest.raises(UsageError, match="kept is 'all': give one of deep, mean, rest"):
        Part(kept="all")
