"""Rows whose truncation is judged on the reference: fused between truncation and draw."""

from types import SimpleNamespace

import pytest
import torch

from esamp.fusion import fuse_logits, fuse_survivors
from esamp.layout import Layout

from .outputs import request
from .piloting import KEPT, bits, head, open_pilot, states, truncate, warm_up

TEMPERATURES = [0.7, 1.0, 1.3, 1.5]
STRENGTHS = [0.5, None, 0.25, 2.0]
FUSED_AFTER = [0, 3]


def begin(dtype=torch.float32):
    """A step of four rows up to its logits: two are fused after truncation, one is plain."""
    pilot = open_pilot()
    scheduler = warm_up(
        pilot,
        request("a", beta=0.5, params={"top_p": 0.9, "temperature": 0.7}),
        request("plain", beta=0.0, params={"top_p": 0.9}),
        request("b", beta=0.25, params={"temperature": 1.3}),
        request("c", beta=2.0, params={"min_p": 0.1, "temperature": 1.5}),
    )
    shallow, deep = states(4, 7, dtype)
    pilot.begin(scheduler.step())
    with pilot.expecting(lambda: ["a", "plain", "b", "c"]):
        reads = pilot.show(shallow, deep)
    return SimpleNamespace(
        pilot=pilot,
        scheduler=scheduler,
        shallow=shallow,
        deep=deep,
        reads=reads,
        reference=head(reads.states.float()),
        fused=head(reads.pushed.float()),
    )


def keep(step):
    step.pilot.keep(lambda: step.fused, step.reference)


@pytest.fixture
def step():
    step = begin()
    keep(step)
    return step


def processed(step, scaled):
    """Truncated logits with a penalty on some tokens."""
    penalty = torch.linspace(-1, 1, step.reference.shape[1])
    temperature = torch.tensor(TEMPERATURES)[:, None] if scaled else 1.0
    return truncate(step.reference / temperature + penalty)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_head_reads_unsteered_states_where_truncation_judges(dtype):
    step = begin(dtype)
    reads, deep = step.reads, step.deep
    moved = (reads.pushed != deep).any(dim=-1).tolist()
    assert moved == [True, False, True, True]
    assert torch.equal(bits(reads.states[[0, 1, 3]]), bits(deep[[0, 1, 3]]))
    assert torch.equal(bits(reads.states[2]), bits(reads.pushed[2]))
    assert reads.states.dtype == reads.pushed.dtype == dtype


@pytest.mark.parametrize("scaled", [True, False], ids=["scaled", "unscaled"])
def test_survivors_move_and_the_rest_stays_away(step, scaled):
    before = processed(step, scaled)
    scores = step.pilot.fuse(before, scaled)
    for row in range(4):
        expected = before[row, None]
        if row in FUSED_AFTER:
            heat = TEMPERATURES[row] if scaled else 1.0
            expected = fuse_survivors(
                expected, step.reference[row, None], step.fused[row, None], heat
            )
        torch.testing.assert_close(scores[row, None], expected)
    assert (scores.isfinite().sum(dim=-1) == KEPT).all()
    others = [1, 2]
    assert torch.equal(bits(scores[others]), bits(before[others]))


def test_without_penalties_what_is_drawn_from_is_the_dense_formula(step):
    bank, roster = step.pilot.explorer.bank, step.pilot.roster
    scores = step.pilot.fuse(truncate(step.reference / torch.tensor(TEMPERATURES)[:, None]), True)
    for row, name in zip(FUSED_AFTER, ["a", "c"], strict=True):
        layout = Layout.of([roster.members[name].group.slot], roster.open_groups)
        predicted = bank.predict(step.shallow[row, None], layout)
        dense = fuse_logits(head(step.deep[row, None]), head(predicted), STRENGTHS[row])[0]
        survives = scores[row].isfinite()
        assert survives.sum() == KEPT
        torch.testing.assert_close(scores[row][survives], dense[survives] / TEMPERATURES[row])


@pytest.mark.parametrize("scaled", [True, False], ids=["scaled", "unscaled"])
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_rows_may_come_in_two_pieces(step, scaled, cut):
    before = processed(step, scaled)
    pieces = torch.cat([step.pilot.fuse(piece, scaled) for piece in before.tensor_split([cut])])
    again = begin()
    keep(again)
    assert torch.equal(pieces, again.pilot.fuse(before, scaled))


def test_where_nothing_is_cut_away_the_two_orders_agree(step):
    scores = step.pilot.fuse(step.reference, scaled=False)
    torch.testing.assert_close(scores[FUSED_AFTER], step.fused[FUSED_AFTER])


def test_logits_that_are_not_finite_move_nothing():
    """Also where the head itself gives −inf, as for padded vocabulary: −inf − −inf is NaN."""
    step = begin()
    step.reference[:, 0] = step.fused[:, 0] = -torch.inf
    step.fused[0, 1], step.fused[3, 2] = torch.inf, torch.nan
    keep(step)
    scores = step.pilot.fuse(step.reference, scaled=False)
    assert scores[:, 0].isneginf().all()
    assert (scores[0, 1], scores[3, 2]) == (step.reference[0, 1], step.reference[3, 2])
    assert scores[:, 1:].isfinite().all()
    torch.testing.assert_close(scores[3, 3:], step.fused[3, 3:])


def test_rows_that_are_not_fused_so_stay_whatever_the_second_projection_gives():
    step = begin()
    step.fused[[1, 2]] += 1.0
    keep(step)
    scores = step.pilot.fuse(step.reference, scaled=False)
    assert torch.equal(scores[[1, 2]], step.reference[[1, 2]])


def test_rows_are_fused_only_between_keep_and_end():
    step = begin()
    seen = [step.pilot.fuses]
    keep(step)
    seen.append(step.pilot.fuses)
    step.pilot.end()
    seen.append(step.pilot.fuses)
    assert seen == [False, True, False]


def test_what_a_step_left_behind_is_not_fused_in_the_next(step):
    step.pilot.begin(step.scheduler.step(tokens={"a": 0, "b": 0, "c": 0}))
    assert not step.pilot.fuses


def test_without_survivors_there_is_no_second_projection():
    pilot = open_pilot()
    scheduler = warm_up(pilot, request("a", truncation="fused", params={"top_p": 0.9}))
    shallow, deep = states(1, 7)
    pilot.begin(scheduler.step())
    with pilot.expecting(lambda: ["a"]):
        reads = pilot.show(shallow, deep)
    assert reads.pushed is None
    assert not torch.equal(reads.states, deep)
    assert not pilot.fuses


def test_the_distillers_learn_from_these_rows_as_from_others():
    """A step of the same states, with and without truncation, leaves the same distillers."""
    banks = []
    for params in ({}, {"top_p": 0.9}):
        pilot = open_pilot()
        warm_up(pilot, request("0_a", params=params), request("1_a"), request("b", params=params))
        banks.append(pilot.explorer.bank)
    assert torch.equal(banks[0].weights, banks[1].weights)
    assert banks[0].weights[1].any()
