"""Whatever breaks in us, the engine goes on: one line in the log, a count, and plain tokens."""

import logging

import pytest
import torch

from .outputs import Scheduler, request
from .piloting import DISTILLER, drive, open_pilot, states, truncate, warm_up

BROKEN = "RuntimeError: broken"
STEERED = ["0_a", "1_a", "b"]
JUDGED = 2
"""How many of them are fused after truncation."""


def broken(*args, **kwargs):
    raise RuntimeError("broken")


class Engine:
    """A pilot in the middle of its work, and what breaks in some steps."""

    def __init__(self):
        self.pilot = open_pilot()
        judged = {"top_p": 0.9}
        self.scheduler = warm_up(
            self.pilot,
            request("0_a", params=judged),
            request("plain", beta=0.0),
            request("1_a"),
            request("b", params=judged),
        )
        self._seed = 10

    def step(self, *breaks, arrivals=(), finished=(), **options):
        """Take a step in which these, an object and a method each, raise."""
        self._seed += 1
        output = self.scheduler.step(*arrivals, finished=list(finished))
        shown = states(len(output.num_scheduled_tokens), self._seed)
        with pytest.MonkeyPatch.context() as patch:
            for owner, method in breaks:
                patch.setattr(owner, method, broken)
            return drive(self.pilot, output, shown, **options)

    def counts(self):
        stats = self.pilot.stats()
        return stats["faults"], stats["rows_fallback"]


@pytest.fixture
def engine():
    return Engine()


def errors(caplog):
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


def assert_steers(engine):
    """The next step is a step like any other."""
    before = engine.pilot.stats()
    turn = engine.step()
    after = engine.pilot.stats()
    assert_fused(turn)
    assert after["rows_steered"] == before["rows_steered"] + len(STEERED)
    assert (after["faults"], after["rows_fallback"]) == (
        before["faults"],
        before["rows_fallback"],
    )


def assert_fused(turn):
    """One row reads its pushed state; of two others the survivors have moved."""
    assert turn.pushed == ["1_a"]
    cut = truncate(turn.logits)
    moved = (turn.scores != cut).any(dim=-1).tolist()
    assert [name for name, it in zip(turn.rows, moved, strict=True) if it] == ["0_a", "b"]


def assert_plain(turn):
    assert torch.equal(turn.states, turn.deep)
    assert torch.equal(turn.scores, truncate(turn.logits))


def test_without_faults(engine, caplog):
    assert_fused(engine.step())
    assert_steers(engine)
    assert engine.counts() == ({}, 0)
    assert not errors(caplog)


# -- the roster --------------------------------------------------------------------------------


def test_the_roster_breaks_and_all_of_that_moment_go_on_plainly(engine, caplog):
    for _ in range(2):
        assert_plain(engine.step((engine.pilot.roster, "update")))
    # The second time there is nobody left to fall back.
    assert engine.counts() == ({BROKEN: 2}, len(STEERED))
    assert len(errors(caplog)) == 1
    before = engine.pilot.stats()
    assert before["requests_open"] == 0
    for finished in [], ["0_a"], ["b", "1_a", "plain"]:
        assert_plain(engine.step(finished=finished))
    after = engine.pilot.stats()
    assert after == before | {"groups_open": 0}, "of the next steps nothing is counted"


def test_who_comes_after_the_roster_broke_is_steered_as_in_a_new_engine(engine):
    old = engine.step((engine.pilot.roster, "update")).rows
    new, scheduler = open_pilot(), Scheduler()
    for seed in range(4):
        # A sibling of theirs, and another.
        come, again = (
            [request("2_a", params={"top_p": 0.9}), request("c")] if seed == 0 else []
            for _ in range(2)
        )
        shown = states(6, 50 + seed)
        turn = drive(engine.pilot, engine.scheduler.step(*come), shown, [*old, "2_a", "c"])
        expected = drive(new, scheduler.step(*again), (shown[0][4:], shown[1][4:]))
        assert torch.equal(turn.states[:4], turn.deep[:4])
        torch.testing.assert_close(turn.states[4:], expected.states)
        torch.testing.assert_close(turn.scores[4:], expected.scores)
    assert turn.pushed == ["c"]
    assert engine.pilot.stats()["rows_steered"] == 3 * len(STEERED) + 3 * 2
    assert engine.counts() == ({BROKEN: 1}, len(STEERED))


def test_a_message_that_is_read_by_half_leaves_nobody():
    pilot = open_pilot()
    scheduler = warm_up(pilot, *map(request, ["a", "b", "c"]))
    output = scheduler.step(request("d"), request("e"), finished=["a"])
    del output.num_scheduled_tokens["e"]
    turn = drive(pilot, output, states(4, 7), ["b", "c", "d", "e"])
    assert_plain(turn)
    stats = pilot.stats()
    assert (stats["faults"], stats["rows_fallback"]) == ({"KeyError: 'e'": 1}, len("abc"))
    assert (stats["requests_open"], pilot.roster.open_groups) == (0, 0)


def test_a_request_that_ends_while_the_roster_breaks_is_not_kept_for_ever():
    pilot = open_pilot()
    scheduler = warm_up(pilot, request("a"), request("b"))
    whole = pilot.roster.update
    pilot.roster.update = broken
    drive(pilot, scheduler.step(finished=["a"]), states(1, 7))
    pilot.roster.update = whole
    drive(pilot, scheduler.step(), states(1, 8))
    drive(pilot, scheduler.step(finished=["b"]), (torch.zeros(0, 8), torch.zeros(0, 8)))
    assert pilot.stats()["requests_open"] == 0
    assert pilot.stats()["groups_open"] == 0


# -- steering and learning ---------------------------------------------------------------------


def test_steering_breaks(engine, caplog):
    for _ in range(2):
        assert_plain(engine.step((engine.pilot.explorer, "steer")))
    assert engine.counts() == ({BROKEN: 2}, 2 * len(STEERED))
    assert len(errors(caplog)) == 1
    assert "goes on plainly" in errors(caplog)[0].getMessage()
    assert errors(caplog)[0].exc_info
    assert_steers(engine)


def test_learning_breaks_and_what_was_learnt_is_not_trusted(engine, caplog):
    for _ in range(2):
        assert_fused(engine.step((engine.pilot.explorer, "learn")))
    assert engine.counts() == ({BROKEN: 2}, 0), "its tokens are drawn already"
    assert len(errors(caplog)) == 1
    bank, fresh = engine.pilot.explorer.bank, DISTILLER.open(4, 8, "cpu")
    assert torch.equal(bank.weights, fresh.weights)
    assert torch.equal(bank.inverse, fresh.inverse)
    assert_steers(engine)
    assert bank.weights[:2].any()


def test_half_a_learnt_step_is_not_kept(engine):
    bank = engine.pilot.explorer.bank
    absorb = bank._absorb

    def halfway(phi, target):
        absorb(phi, target)
        broken()

    bank._absorb = halfway
    engine.step()
    bank._absorb = absorb
    assert not bank.weights.any()
    assert_steers(engine)


# -- fusion after truncation -------------------------------------------------------------------


def test_the_second_projection_breaks(engine, caplog):
    for _ in range(2):
        turn = engine.step(project=broken)
        assert turn.pushed == ["1_a"], "which needs no second projection"
        assert torch.equal(turn.scores, truncate(turn.logits))
    assert engine.counts() == ({BROKEN: 2}, 2 * JUDGED)
    assert len(errors(caplog)) == 1
    assert_steers(engine)


def test_fusion_breaks(engine, caplog):
    for _ in range(2):
        turn = engine.step((engine.pilot, "_fuse"))
        assert torch.equal(turn.scores, truncate(turn.logits))
    assert engine.counts() == ({BROKEN: 2}, 2 * JUDGED)
    assert len(errors(caplog)) == 1
    assert_steers(engine)


@pytest.mark.parametrize("what", ["project", "fuse"])
def test_a_row_is_counted_as_steered_or_as_plain(engine, what):
    before = engine.pilot.stats()["rows_steered"]
    if what == "project":
        engine.step(project=broken)
    else:
        engine.step((engine.pilot, "_fuse"))
    after = engine.pilot.stats()
    assert after["rows_fallback"] == JUDGED
    assert after["rows_steered"] - before == len(STEERED) - JUDGED


def test_fusion_breaks_in_both_of_two_pieces(engine):
    pilot = engine.pilot
    turn, before = engine.step(), engine.pilot.stats()
    pilot.begin(engine.scheduler.step())
    with pilot.expecting(lambda: turn.rows):
        pilot.show(turn.shallow, turn.deep)
        pilot.keep(lambda: torch.ones(4, 12), torch.zeros(4, 12))
    for _ in range(2):
        pilot.fuse(torch.zeros(2, 7), scaled=True)
    pilot.end()
    after = pilot.stats()
    assert sum(after["faults"].values()) == 2
    assert after["rows_fallback"] == JUDGED
    assert after["rows_steered"] - before["rows_steered"] == len(STEERED) - JUDGED


def test_scores_of_another_shape_come_back_as_they_are():
    pilot = open_pilot()
    scheduler = warm_up(pilot, request("a", params={"top_k": 3}))
    shallow, deep = states(1, 7)
    pilot.begin(scheduler.step())
    with pilot.expecting(lambda: ["a"]):
        pilot.show(shallow, deep)
        pilot.keep(lambda: torch.ones(1, 12), torch.zeros(1, 12))
    scores = torch.randn(1, 7)
    assert pilot.fuse(scores, scaled=True) is scores
    pilot.end()
    assert sum(pilot.stats()["faults"].values()) == 1
    assert pilot.stats()["rows_fallback"] == 1


# -- anything ----------------------------------------------------------------------------------


def test_rows_that_are_not_those_of_the_step_are_left_alone(engine):
    turn = engine.step(rows=["0_a", "plain", "1_a"])
    assert_plain(turn)
    message = "EsampError: the head is called for 4 rows, the step has 3"
    assert engine.counts()[0] == {message: 1}
    assert_steers(engine)


def test_each_kind_is_logged_once_and_counted_by_itself(engine, caplog):
    engine.step((engine.pilot.explorer, "steer"))
    engine.step(rows=["0_a"])
    engine.step((engine.pilot.explorer, "steer"))
    assert engine.counts() == (
        {BROKEN: 2, "EsampError: the head is called for 4 rows, the step has 1": 1},
        2 * len(STEERED),
    )
    assert len(errors(caplog)) == 2


def test_all_may_break_at_once(engine):
    pilot = engine.pilot
    hooks = [(pilot.explorer, "learn"), (pilot, "_fuse"), (pilot, "_forget")]
    engine.step(*hooks, project=broken)
    assert engine.counts() == ({BROKEN: 2}, JUDGED), "what was not kept is not fused"
    assert_steers(engine)
    assert_plain(engine.step(*hooks, (pilot.roster, "update"), project=broken))
    assert engine.counts() == ({BROKEN: 3}, JUDGED + len(STEERED)), "nobody is left to steer"


def test_what_ends_a_process_is_not_held_back(engine):
    def interrupted(*args):
        raise KeyboardInterrupt

    engine.pilot.explorer.steer = interrupted
    with pytest.raises(KeyboardInterrupt):
        engine.step()
