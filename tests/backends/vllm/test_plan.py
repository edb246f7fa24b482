from types import SimpleNamespace

import torch

from esamp.backends.vllm.plan import lay_out
from esamp.backends.vllm.roster import Group, Member


def member(slot, beta=0.25, reference=False, temperature=1.0):
    return Member(
        beta=beta,
        reference=reference,
        sampling=SimpleNamespace(temperature=temperature),
        group=Group(key=slot, slot=slot),
        prompt=3,
        known=3,
        seen=5,
    )


def plan_of(rows, steered, open_groups=2):
    return lay_out(("key",), rows, steered, open_groups, torch.device("cpu"))


def test_steered_rows_have_their_own_strength_and_group():
    plan = plan_of(4, [(1, member(slot=1, beta=0.5)), (3, member(slot=0, beta=0.1))])
    assert plan.index.tolist() == [1, 3]
    torch.testing.assert_close(plan.beta, torch.tensor([0.5, 0.1]))
    assert not plan.everyone
    assert len(plan.members) == len(plan.ones) == len(plan.unfinished) == 2


def test_everyone_is_steered_only_if_no_row_is_left_out():
    assert plan_of(2, [(0, member(0)), (1, member(0))]).everyone
    assert not plan_of(3, [(0, member(0)), (1, member(0))]).everyone


def test_without_truncation_there_are_no_survivors():
    assert plan_of(2, [(0, member(0)), (1, member(1))]).survivors is None


def test_survivors_are_counted_among_all_rows_with_their_temperatures():
    judged = member(0, reference=True, temperature=0.5)
    survivors = plan_of(3, [(0, member(1)), (2, judged)]).survivors
    assert survivors.rows[:, 0].tolist() == [False, False, True]
    assert survivors.temperature[:, 0].tolist() == [1.0, 1.0, 0.5]
    assert survivors.count == 1
