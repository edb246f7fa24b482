"""Who is steered, and with whom, from what the scheduler says."""

import pytest

from .outputs import Scheduler, request
from .rosters import open_roster, steered


def enrol(*requests, **defaults):
    """A roster to which these have come."""
    roster = open_roster(**defaults)
    roster.update(Scheduler().step(*requests))
    return roster


def groups(roster):
    """Who is with whom."""
    shared = {}
    for name, member in roster.members.items():
        shared.setdefault(id(member.group), []).append(name)
    return list(shared.values())


# -- who shares a group ------------------------------------------------------------------------


def test_siblings_share_a_group_and_single_requests_have_their_own():
    names = ["0_abc-1", "abc-2", "1_abc-1", "0_abc-3", "12_abc-1", "_abc-1", "x_abc-1", "0_a\n_b"]
    roster = enrol(*map(request, [*names, "1_a\n_b"]))
    siblings = ["0_abc-1", "1_abc-1", "12_abc-1"]
    alone = [["abc-2"], ["0_abc-3"], ["_abc-1"], ["x_abc-1"]]
    assert groups(roster) == [siblings, *alone, ["0_a\n_b", "1_a\n_b"]]


def test_the_scope_may_be_everyone_or_nobody():
    shared = [request(name, scope="shared") for name in ("0_a", "1_a", "b")]
    alone = [request(name, scope="sample") for name in ("0_c", "1_c")]
    assert groups(enrol(*shared, *alone)) == [["0_a", "1_a", "b"], ["0_c"], ["1_c"]]


def test_a_named_group_spans_requests():
    roster = enrol(
        request("0_a", group="g"), request("b", group="g"), request("c", group="h"), request("g")
    )
    assert groups(roster) == [["0_a", "b"], ["c"], ["g"]]


@pytest.mark.parametrize("ours", [{}, {"scope": "shared"}, {"group": "g"}])
def test_adapters_are_apart(ours):
    names = [("0_a", None), ("1_a", 1), ("2_a", 2), ("3_a", 1)]
    roster = enrol(*(request(name, lora=lora, **ours) for name, lora in names))
    assert groups(roster) == [["0_a"], ["1_a", "3_a"], ["2_a"]]


# -- who is steered at all ---------------------------------------------------------------------


def test_who_is_no_member():
    pooling = request("pooling")
    pooling.sampling = None
    roster = enrol(
        pooling,
        request("greedy", params={"temperature": 0.0}),
        request("nearly greedy", params={"temperature": 9e-6}),
        request("off", beta=0.0),
        request("silent", params={"extra_args": None}),
        request("others", params={"extra_args": {"top": 1}}),
        request("warm", params={"temperature": 1e-5}),
    )
    assert list(roster.members) == ["warm"]
    assert roster.open_groups == 1


def test_the_defaults_of_the_server_are_for_those_that_say_nothing():
    silent = [request(name, params={"extra_args": None, "top_k": 5}) for name in ("a", "b")]
    own = request("c", beta=2.0, scope="sample", truncation="reference", params=None)
    own.sampling.top_k = 5
    roster = enrol(
        *silent, own, request("off", beta=0.0), beta=0.3, scope="shared", truncation="fused"
    )
    members = roster.members
    assert [(member.beta, member.reference) for member in members.values()] == [
        (0.3, False),
        (0.3, False),
        (2.0, True),
    ]
    assert groups(roster) == [["a", "b"], ["c"]]


@pytest.mark.parametrize(
    ("params", "reference"),
    [
        ({}, False),
        ({"top_k": -1}, False),
        ({"frequency_penalty": 1.0, "logit_bias": {1: 2.0}}, False),
        ({"temperature": 0.3}, False),
        ({"top_k": 1}, True),
        ({"top_p": 0.99}, True),
        ({"min_p": 0.01}, True),
        ({"repetition_penalty": 1.1}, True),
    ],
)
def test_what_does_not_commute_with_fusion_is_fused_after(params, reference):
    assert enrol(request("a", params=params)).members["a"].reference is reference
    fused = enrol(request("a", truncation="fused", params=params))
    assert not fused.members["a"].reference


WRONG = [
    {"esamp_beta": "x"},
    {"esamp_what": 1},
    {"esamp": {"beta": 1.0}},
    {"esamp_beta": 0.5, "esamp_group": "g" * 10_000},
    {"esamp_beta": 10**400},
]


@pytest.mark.parametrize("extra_args", WRONG, ids=lambda value: str(value)[:40])
@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_that_got_past_admission_raise_nothing(extra_args, caplog):
    roster = enrol(request("a", params={"extra_args": extra_args}), request("b"))
    assert list(roster.members) == ["b"]
    assert "request a is sampled plainly: " in caplog.text


def test_a_batch_of_strangers_is_passed_over():
    scheduler, roster = Scheduler(), open_roster()
    roster.update(scheduler.step(request("a", beta=0.0)))
    roster.update(scheduler.step(finished=["never seen"]))
    roster.update(scheduler.step(finished=["a"]))
    assert not roster.members


# -- when a request is steered -----------------------------------------------------------------


def test_all_tokens_are_steered_but_the_first():
    scheduler, roster = Scheduler(), open_roster()
    roster.update(scheduler.step(request("a")))
    assert steered(roster) == []
    roster.update(scheduler.step(request("b", prompt=1)))
    assert steered(roster) == ["a"]
    roster.update(scheduler.step())
    assert steered(roster) == ["a", "b"]


def test_a_prompt_in_chunks_is_not_steered():
    scheduler, roster = Scheduler(), open_roster()
    seen = []
    for step in range(6):
        arrivals = [request("a", prompt=10)] if step == 0 else []
        roster.update(scheduler.step(*arrivals, tokens={"a": 4} if step < 2 else None))
        seen.append(bool(steered(roster)))
    assert seen == [False, False, False, True, True, True]


def test_a_prompt_found_in_the_cache_is_not_steered():
    scheduler, roster, cached = Scheduler(), open_roster(), request("a", prompt=10)
    cached.computed = 9
    roster.update(scheduler.step(cached))
    assert steered(roster) == []
    roster.update(scheduler.step())
    assert steered(roster) == ["a"]


def test_several_drafts_at_once_are_steered():
    scheduler, roster = Scheduler(), open_roster()
    roster.update(scheduler.step(request("a")))
    roster.update(scheduler.step(tokens={"a": 4}))
    assert steered(roster) == ["a"]


@pytest.mark.parametrize("resends", [False, True], ids=["V1", "V2"])
def test_a_preempted_request_keeps_its_group_and_is_steered_from_its_next_token_on(resends):
    scheduler, roster = Scheduler(resends), open_roster()
    roster.update(scheduler.step(request("0_a", prompt=10), request("b")))
    for _ in range(4):
        roster.update(scheduler.step())
    scheduler.preempt("0_a")
    before = roster.members["0_a"].group
    roster.update(scheduler.step(tokens={"0_a": 0}))
    seen = []
    for chunk in (6, 6, None, None):  # of 10 + 5 tokens that were there
        roster.update(scheduler.step(tokens={} if chunk is None else {"0_a": chunk}))
        seen.append("0_a" in steered(roster))
    assert seen == [False, False, True, True]
    assert roster.members["0_a"].group is before
    assert (before.members, before.slot) == (1, 0)
    roster.update(scheduler.step(request("1_a")))
    assert roster.members["1_a"].group is before


def test_the_next_part_of_a_streaming_request_may_ask_for_something_else():
    scheduler, roster = Scheduler(resends=True), open_roster()
    roster.update(scheduler.step(request("a"), request("b")))
    first, group = roster.members["a"], roster.members["a"].group
    roster.update(scheduler.step(request("a", beta=2.0, params={"top_k": 5}, prompt=7)))
    member = roster.members["a"]
    assert (member.beta, member.reference, member.prompt) == (2.0, True, 7)
    assert (member.group, group.members, first.reference) == (group, 1, False)
    roster.update(scheduler.step(request("a", group="g")))
    assert len(groups(roster)) == 2
    assert roster.members["a"].group is not group
    greedy = request("a", group="g", params={"temperature": 0.0})
    greedy.sampling.extra_args = {"esamp_beta": 2.0}
    roster.update(scheduler.step(greedy))
    assert (list(roster.members), roster.open_groups) == (["b"], 1)


@pytest.mark.parametrize("name", ["_warmup_0_", "_v2_mixed_warmup_decode_"])
def test_what_an_engine_makes_up_to_warm_up_is_no_member(name):
    roster = enrol(request(name), request("0_a"), beta=0.5)
    assert list(roster.members) == ["0_a"]


@pytest.mark.parametrize("resends", [False, True], ids=["V1", "V2"])
def test_a_request_preempted_within_its_prompt_still_draws_its_first_token_plainly(resends):
    scheduler, roster = Scheduler(resends), open_roster()
    roster.update(scheduler.step(request("a", prompt=10), tokens={"a": 6}))
    scheduler.preempt("a")
    seen = []
    for _ in range(3):
        roster.update(scheduler.step())
        seen.append(bool(steered(roster)))
    assert seen == [False, True, True]
