"""What the pilot makes of a step: the core's formula, for whoever is to be steered."""

import random

import pytest
import torch

from esamp.backends.vllm.ranks import AgreedBank
from esamp.capture import SETTLED, Captured
from esamp.distiller import MeanDistiller
from esamp.layout import Layout
from esamp.mlp import MLPDistiller
from late import Late
from no_sync import ForbidHostSync
from steps import HIDDEN

from .outputs import Scheduler, request
from .piloting import DISTILLER, Core, bits, drive, open_pilot, states, warm_up

DISTILLERS = [DISTILLER, MLPDistiller(width=8, learning_rate=3e-3), MeanDistiller()]


@pytest.fixture(params=DISTILLERS, ids=lambda distiller: distiller.name)
def distiller(request):
    return request.param


GROUP_AND_BETA = {
    "0_a": (0, 0.5),
    "1_a": (0, 2.0),
    "b": (1, 0.25),
    "c": (2, 1.0),
    "0_d": (3, 4.0),
    "1_d": (3, 0.125),
}
STEPS = [
    (["0_a", "plain", "b", "1_a"], []),
    ([], []),
    (["c", "greedy"], []),
    ([], ["b"]),
    (["0_d", "1_d"], ["plain"]),
    ([], []),
    ([], ["0_a", "1_a"]),
    ([], ["greedy", "0_d"]),
    ([], []),
]


def newcomer(name):
    if name == "greedy":
        return request(name, params={"temperature": 0.0})
    return request(name, beta=0.0 if name == "plain" else GROUP_AND_BETA[name][1])


# -- who is steered, and how -------------------------------------------------------------------


def test_rows_are_steered_as_the_core_steers_them(distiller):
    """Groups come and go and change slots, and rows stand anywhere."""
    pilot, core, scheduler = open_pilot(distiller=distiller), Core(distiller), Scheduler()
    shuffle, drawn, steered = random.Random(0).shuffle, set(), 0
    for seed, (coming, finished) in enumerate(STEPS):
        output = scheduler.step(*map(newcomer, coming), finished=finished)
        rows = list(output.num_scheduled_tokens)
        shuffle(rows)
        shallow, deep = states(len(rows), seed)
        turn = drive(pilot, output, (shallow, deep), rows)
        members = {
            row: GROUP_AND_BETA[name]
            for row, name in enumerate(rows)
            if name in GROUP_AND_BETA and name in drawn
        }
        torch.testing.assert_close(turn.states, core.step(shallow, deep, members))
        assert turn.pushed == [rows[row] for row in members]
        drawn, steered = set(rows), steered + len(members)
    stats = pilot.stats()
    assert (stats["rows_steered"], stats["rows_fallback"], stats["faults"]) == (steered, 0, {})
    assert (stats["groups_open"], stats["requests_open"]) == (2, 2)


def test_captured_steps_steer_as_plain_ones_do(distiller, monkeypatch):
    """Groups come, settle and go, while what is learnt beside the model is as late as it may be."""
    plain, devices = open_pilot(distiller=distiller), []

    def capture(explorer, device):
        devices.append(Late(explorer.bank))
        return Captured(explorer, devices[-1])

    monkeypatch.setattr("esamp.backends.vllm.controls.capture", capture)
    captured, scheduler, seed = open_pilot(distiller=distiller), Scheduler(), 0
    for coming, finished in STEPS:
        for number in range(SETTLED + 2):
            come = map(newcomer, coming if number == 0 else [])
            output = scheduler.step(*come, finished=finished if number == 0 else [])
            seed += 1
            shown = states(len(output.num_scheduled_tokens), seed)
            ours, theirs = (drive(pilot, output, shown) for pilot in (captured, plain))
            assert torch.equal(bits(ours.states), bits(theirs.states))
            assert ours.pushed == theirs.pushed
    assert captured.stats() == plain.stats()
    assert devices[0].recorded >= 8


def test_steered_rows_cool_with_the_tokens_that_they_have_drawn():
    """Request b comes two steps later, and is preempted; a has drawn more, and more is known."""
    pilot, core, scheduler = open_pilot(cooling_final=0.5), Core(), Scheduler()
    gains = []
    for seed in range(7):
        if seed == 5:
            scheduler.preempt("b")
        coming = [request(name) for name in {0: "a", 2: "b"}.get(seed, "")]
        shallow, deep = states(1 if seed < 2 else 2, seed)
        turn = drive(pilot, scheduler.step(*coming), (shallow, deep))
        members = {row: (row, 0.5) for row, came in enumerate((0, 2)) if seed > came}
        expected = core.step(shallow, deep, members)
        gain = turn.states.norm(dim=-1) / expected.norm(dim=-1)
        torch.testing.assert_close(turn.states, gain[:, None] * expected)
        gains.append([round(each, 4) for each in gain.tolist()])
    assert [each[0] for each in gains] == [1.0, 1.25, 1.5, 1.75, 2.0, 2.0, 2.0]
    assert [each[1] for each in gains[2:]] == [1.0, 1.25, 1.5, 1.75, 2.0]
    assert pilot.stats()["faults"] == {}


def test_requests_teach_with_their_first_tokens_and_steps_without_one_learn_nothing(monkeypatch):
    """Request b comes four steps later, into the group of a."""
    pilot, core, scheduler = open_pilot(learn_tokens=2), Core(), Scheduler()
    learnt, learn, came = [], pilot.explorer.bank.learn, {0: "a", 4: "b"}
    monkeypatch.setattr(
        pilot.explorer.bank, "learn", lambda *states: (learnt.append(seed), learn(*states))
    )
    for seed in range(9):
        coming = [request(came[seed], group="g")] if seed in came else []
        ages = [seed - each for each in came if each <= seed]
        shallow, deep = states(len(ages), seed)
        turn = drive(pilot, scheduler.step(*coming), (shallow, deep))
        members = {row: (0, 0.5) for row, age in enumerate(ages) if age > 0}
        taught = torch.tensor([ages[row] <= 2 for row in members], dtype=torch.bool)
        torch.testing.assert_close(turn.states, core.step(shallow, deep, members, taught))
    assert learnt == [1, 2, 5, 6]
    assert pilot.stats()["faults"] == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_that_are_not_steered_are_left_alone_bit_for_bit(dtype):
    pilot = open_pilot()
    scheduler = warm_up(pilot, request("a"), newcomer("plain"), newcomer("greedy"))
    shallow, deep = states(4, 7, dtype)
    deep[:, :4] = -0.0
    turn = drive(pilot, scheduler.step(newcomer("b")), (shallow, deep))
    assert turn.states.dtype == dtype
    assert turn.pushed == ["a"]
    assert torch.equal(bits(turn.states[1:]), bits(deep[1:]))


def test_a_prompt_in_chunks_neither_reads_nor_teaches():
    pilot, core, scheduler = open_pilot(), Core(), Scheduler()
    shown = [states(2, seed) for seed in range(4)]
    long = request("0_a", prompt=10)
    drive(pilot, scheduler.step(long, newcomer("b"), tokens={"0_a": 4}), shown[0])
    for seed in (1, 2):
        turn = drive(pilot, scheduler.step(tokens={"0_a": 3}), shown[seed])
        assert turn.pushed == ["b"]
        core.step(*shown[seed], {1: (1, 0.25)})
    turn = drive(pilot, scheduler.step(), shown[3])
    expected = core.step(*shown[3], {0: (0, 0.5), 1: (1, 0.25)})
    torch.testing.assert_close(turn.states, expected)


def test_groups_change_slots_while_the_rows_of_a_step_stay_the_same():
    pilot, core, scheduler = open_pilot(), Core(), Scheduler()
    b = {0: GROUP_AND_BETA["b"]}
    drive(pilot, scheduler.step(*map(newcomer, ["0_a", "b"])), states(2, 0))
    for seed, finished in [(1, []), (2, ["0_a"]), (3, [])]:
        shown = states(1, seed)
        turn = drive(pilot, scheduler.step(finished=finished, tokens={"0_a": 0}), shown, ["b"])
        torch.testing.assert_close(turn.states, core.step(*shown, b))


def test_a_step_works_on_open_groups_only():
    pilot, seen = open_pilot(max_groups=8), []
    scheduler = warm_up(pilot, *map(newcomer, ["0_a", "1_a", "b", "c"]))
    pilot.explorer.bank.learn = lambda shallow, deep, taught, layout: seen.append(layout.groups)
    drive(pilot, scheduler.step(), states(4, 1))
    drive(pilot, scheduler.step(finished=["0_a", "c"]), states(2, 2))
    drive(pilot, scheduler.step(finished=["1_a"]), states(1, 3))
    assert seen == [3, 2, 1]


def test_requests_change_rows():
    pilot, core, scheduler = open_pilot(), Core(), Scheduler()
    drive(pilot, scheduler.step(*map(newcomer, ["0_a", "b"])), states(2, 0))
    for seed, rows in enumerate([["0_a", "b"], ["b", "0_a"], ["0_a", "b"]], start=1):
        shown = states(2, seed)
        turn = drive(pilot, scheduler.step(), shown, rows)
        members = {row: GROUP_AND_BETA[name] for row, name in enumerate(rows)}
        torch.testing.assert_close(turn.states, core.step(*shown, members))


def test_a_name_that_comes_again_has_its_new_strength():
    pilot, core, scheduler = open_pilot(), Core(), Scheduler()
    drive(pilot, scheduler.step(newcomer("b")), states(1, 0))
    drive(pilot, scheduler.step(), states(1, 1))
    drive(pilot, scheduler.step(request("b", beta=3.0), finished=["b"]), states(1, 2))
    shown = states(1, 3)
    turn = drive(pilot, scheduler.step(), shown)
    torch.testing.assert_close(turn.states, core.step(*shown, {0: (1, 3.0)}))


def test_bf16_is_steered_in_fp32_and_rounded_once():
    pilot, core, scheduler = open_pilot(), Core(), Scheduler()
    drive(pilot, scheduler.step(newcomer("b")), states(1, 0, torch.bfloat16))
    for seed in (1, 2, 3):
        shown = states(1, seed, torch.bfloat16)
        turn = drive(pilot, scheduler.step(), shown)
        assert torch.equal(turn.states, core.step(*shown, {0: (1, 0.25)}))


@pytest.mark.parametrize("others", [[], ["plain"]], ids=["everyone", "some"])
def test_a_strength_of_next_to_nothing_moves_no_bit_of_bf16(others):
    pilot = open_pilot()
    scheduler = warm_up(pilot, request("a", beta=1e-30), *map(newcomer, others))
    turn = drive(pilot, scheduler.step(), states(1 + len(others), 7, torch.bfloat16))
    assert turn.reads is not None
    assert torch.equal(bits(turn.states), bits(turn.deep))
    assert pilot.stats()["rows_steered"] == 4


def test_a_push_that_float16_cannot_hold_is_left_alone_and_counted():
    pilot = open_pilot()
    scheduler = warm_up(pilot, request("a", beta=4.0), request("b", beta=4.0))
    shallow, deep = states(2, 7, torch.float16)
    deep[0, 0] = 60_000
    turn = drive(pilot, scheduler.step(), (shallow, deep))
    assert turn.pushed == ["b"]
    assert turn.states.isfinite().all()
    assert pilot.stats()["rows_nonfinite"] == 1


def test_rows_without_a_free_group_are_drawn_plainly_and_counted():
    pilot = open_pilot(max_groups=1)
    scheduler = warm_up(pilot, request("a"), request("0_b"), request("1_b"))
    assert pilot.stats()["rows_fallback"] == 2 * 3
    turn = drive(pilot, scheduler.step(finished=["a"]), states(2, 7))
    assert turn.reads is None
    stats = pilot.stats()
    assert (stats["rows_fallback"], stats["rows_steered"], stats["groups_open"]) == (8, 3, 0)


@pytest.mark.parametrize("name", ["shallow", "deep"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_row_that_is_not_finite_is_left_alone_and_the_others_go_on_without_it(name, value):
    pilot, other = open_pilot(), open_pilot()
    scheduler, its = (warm_up(each, *map(request, ["0_a", "1_a", "b"])) for each in (pilot, other))
    shallow, deep = states(3, 7)
    expected = drive(other, its.step(tokens={"0_a": 0}), (shallow[1:], deep[1:]))
    {"shallow": shallow, "deep": deep}[name][0, 3] = value
    turn = drive(pilot, scheduler.step(), (shallow, deep))
    assert torch.equal(bits(turn.states[0]), bits(deep[0]))
    torch.testing.assert_close(turn.states[1:], expected.states)
    stats = pilot.stats()
    assert (stats["rows_nonfinite"], stats["rows_fallback"], stats["faults"]) == (1, 1, {})
    assert stats["rows_steered"] == 3 * 3 + 2
    later = [
        drive(each, schedule.step(), states(3, 8)).states
        for each, schedule in ((pilot, scheduler), (other, its))
    ]
    torch.testing.assert_close(*later)


def test_only_accepted_rows_teach():
    pilot, core, scheduler = open_pilot(), Core(), Scheduler()
    drive(pilot, scheduler.step(*map(newcomer, ["plain", "b", "0_a"])), states(3, 0))
    rows = ["plain", "b", "b", "b", "0_a", "0_a"]
    accepted = torch.tensor([True, True, True, False, True, False])
    members = {row: GROUP_AND_BETA[name] for row, name in enumerate(rows) if name != "plain"}
    for seed in range(1, 4):
        shown = states(6, seed)
        output = scheduler.step(tokens={"b": 3, "0_a": 2})
        turn = drive(pilot, output, shown, rows, accepted)
        torch.testing.assert_close(turn.states, core.step(*shown, members, taught=accepted[1:]))


# -- when the head is asked for ----------------------------------------------------------------


def test_the_pilot_expects_the_head_once_a_step_and_at_no_other_time():
    pilot, scheduler, rows = open_pilot(), Scheduler(), ["a"]
    pilot.begin(scheduler.step(request("a")))
    assert not pilot.expects
    with pilot.expecting(lambda: rows):
        assert pilot.expects
        assert pilot.show(*states(1, 0)) is None, "a first token"
        assert not pilot.expects, "what comes now is not for the rows of the step"
    pilot.end()
    pilot.begin(scheduler.step())
    with pilot.expecting(lambda: rows):
        pass
    assert not pilot.expects, "a step whose head was not called"


def test_without_members_the_rows_of_a_step_are_not_even_listed():
    pilot, scheduler = open_pilot(), Scheduler()
    pilot.begin(scheduler.step(newcomer("plain")))
    with pilot.expecting(lambda: pytest.fail("rows are listed")):
        assert not pilot.expects
    pilot.end()
    assert pilot.stats()["steps"] == 0


def test_an_error_of_the_engine_passes_through_and_leaves_no_expectation():
    pilot, scheduler = open_pilot(), Scheduler()
    pilot.begin(scheduler.step(request("a")))
    with pytest.raises(KeyError), pilot.expecting(lambda: ["a"]):
        raise KeyError
    assert not pilot.expects


def test_memory_is_measured_until_the_first_step():
    pilot = open_pilot()
    assert pilot.profiling
    pilot.begin(Scheduler().step())
    assert not pilot.profiling


@pytest.mark.parametrize("others", [[], ["plain"]], ids=["everyone", "some"])
@pytest.mark.parametrize("params", [{}, {"top_p": 0.9}], ids=["commutes", "survivors"])
def test_no_step_waits_for_the_device(distiller, params, others):
    """Neither of an unchanged batch nor of one in which groups open, close and move."""
    pilot = open_pilot(distiller=distiller)
    members = [request(name, params=params) for name in ("0_a", "1_a", "b")]
    scheduler = warm_up(pilot, *map(newcomer, others), *members)
    for changes in ({}, {"finished": ["0_a", "1_a"]}, {}):
        output = scheduler.step(*([newcomer("c")] if changes else []), **changes)
        shown = states(len(output.num_scheduled_tokens), 7)
        with ForbidHostSync():
            turn = drive(pilot, output, shown)
        assert turn.reads is not None
    assert pilot.stats()["faults"] == {}
    assert pilot.stats()["rows_steered"] == 3 * 4 + 1 + 2


# -- ranks -------------------------------------------------------------------------------------


def test_ranks_steer_by_what_rank_0_predicts():
    agreed = torch.randn(2, HIDDEN)
    seen = []

    def broadcast(values):
        assert values.is_contiguous()
        seen.append(values.clone())
        return agreed

    pilot, core, scheduler = open_pilot(broadcast=broadcast), open_pilot(), Scheduler()
    output = scheduler.step(*map(newcomer, ["b", "c"]))
    for each in (pilot, core):
        drive(each, output, states(2, 0))
    for seed in (1, 2, 3):
        shallow, deep = states(2, seed)
        output = scheduler.step()
        turn = drive(pilot, output, (shallow, deep))
        strengths = torch.tensor([[0.25], [1.0]])
        torch.testing.assert_close(turn.states, deep + strengths * (deep - agreed))
        own = drive(core, output, (shallow, deep)).states
        torch.testing.assert_close(seen[-1], deep - (own - deep) / strengths)


def test_an_agreed_bank_learns_resets_and_moves_as_the_bank_within():
    within = DISTILLER.open(3, HIDDEN, "cpu")
    bank, layout = AgreedBank(within, torch.neg), Layout.of([0, 1], 2)
    shallow, deep = states(2, 0)
    bank.learn(shallow, deep, torch.ones(2, dtype=torch.bool), layout)
    predicted = within.predict(shallow, layout)
    assert predicted.any()
    assert torch.equal(bank.predict(shallow, layout), -predicted)
    bank.move(1, 0)
    torch.testing.assert_close(within.predict(shallow, layout)[1], predicted[1])
    assert torch.equal(within.weights[0], within.weights[1])
    bank.reset(torch.tensor([0]))
    assert not within.weights[0].any()
