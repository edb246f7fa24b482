import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esamp import ESamp, MeanDistiller, MLPDistiller, RecursiveDistiller
from esamp.baselines import Neighbour
from esamp.baselines.neighbour import passed_on
from esamp.layout import Layout
from steps import no_tokens, random_states, random_step, select
from toy import call_of

GROUPS = [2, 0, 1, 0, 2, 1, 0]
DISTILLERS = [RecursiveDistiller(features=16), MLPDistiller(width=8), MeanDistiller()]


@given(st.lists(st.integers(0, 4), max_size=12), st.integers(5, 7))
def test_rows_find_the_next_group_and_come_back(groups, capacity):
    layout = passed_on(Layout.of(groups, capacity))
    rows = random_states(len(groups), seed=1)
    torch.testing.assert_close(layout.unpack(layout.pack(rows)), rows, rtol=0, atol=0)
    number = torch.arange(capacity, dtype=torch.float)[:, None, None]
    asked = layout.unpack(number.expand(*layout.index.shape, 1))[:, 0].tolist()
    assert asked == [(group + 1) % capacity for group in groups]
    assert layout.group.tolist() == asked


@pytest.mark.parametrize("distiller", DISTILLERS, ids=lambda each: each.name)
def test_a_group_is_steered_by_what_the_next_has_learnt(distiller):
    esamp = ESamp(beta=0.5, distiller=distiller)
    steering, plain = (each.start(call_of(GROUPS)) for each in (Neighbour(esamp=esamp), esamp))
    first, second = random_step(GROUPS, seed=1), random_step(GROUPS, seed=2)
    for each in (steering, plain):
        each.steer(first)
        each.learn(first, no_tokens(first))
    states = steering.steer(second).states
    moved = select(second, range(7), [(group + 1) % 3 for group in GROUPS], 3)
    torch.testing.assert_close(states, plain.steer(moved).states)
    assert not torch.allclose(states, plain.steer(second).states)


@pytest.mark.parametrize("distiller", DISTILLERS, ids=lambda each: each.name)
def test_each_group_learns_from_its_own(distiller):
    esamp = ESamp(beta=0.5, distiller=distiller)
    states = []
    for method in (esamp, Neighbour(esamp=esamp)):
        steering = method.start(call_of(GROUPS))
        for seed in range(3):
            step = random_step(GROUPS, seed=seed)
            steering.steer(step)
            steering.learn(step, no_tokens(step))
        probe = random_step(GROUPS, seed=9)
        states.append(steering.bank.predict(probe.shallow, probe.layout))
    torch.testing.assert_close(states[1], states[0])


def test_a_prompt_alone_is_left_plain():
    steering, step = Neighbour().start(call_of([0, 0])), random_step([0, 0])
    assert torch.equal(steering.steer(step).states, step.deep)
