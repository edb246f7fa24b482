"""Where groups stand in the bank: in front, and each with its own distiller as long as it lives."""

import itertools

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from esamp.layout import Layout
from esamp.recursive import RecursiveDistiller
from steps import HIDDEN, random_states

from .outputs import Scheduler, request
from .rosters import Births, open_roster, slots, steered


def test_a_group_lives_until_its_last_request_and_is_new_when_it_comes_again():
    scheduler, bank = Scheduler(), Births(4)
    roster = open_roster(bank=bank)
    roster.update(scheduler.step(request("0_a"), request("1_a")))
    roster.update(scheduler.step(finished=["0_a"]))
    roster.update(scheduler.step(request("2_a")))
    assert (slots(roster), bank.content[0]) == ({"1_a": 0, "2_a": 0}, 0)
    roster.update(scheduler.step(finished=["1_a", "2_a"]))
    assert roster.open_groups == 0
    roster.update(scheduler.step(request("3_a")))
    assert (slots(roster), bank.content[0]) == ({"3_a": 0}, 1)


def test_a_name_that_is_finished_and_comes_again_at_once_is_new():
    scheduler, bank = Scheduler(), Births(4)
    roster = open_roster(bank=bank)
    roster.update(scheduler.step(request("a")))
    roster.update(scheduler.step(request("a"), finished=["a"]))
    assert (slots(roster), bank.content[0]) == ({"a": 0}, 1)
    assert steered(roster) == []


def test_samples_that_had_to_wait_inherit_from_those_that_made_room():
    """An engine with room for two of four: all who were there finish in one step."""
    scheduler, bank = Scheduler(), Births(4)
    roster = open_roster(capacity=2, bank=bank)
    roster.update(scheduler.step(request("b"), request("0_a"), request("1_a")))
    waiting = [request("2_a"), request("3_a"), request("c")]
    roster.update(scheduler.step(*waiting, finished=["b", "0_a", "1_a"]))
    assert slots(roster) == {"2_a": 0, "3_a": 0, "c": 1}
    assert bank.content[:2] == [1, 2]
    roster.update(scheduler.step(request("d", group="g")))
    assert slots(roster)["d"] is None
    roster.update(scheduler.step(request("e", group="g"), finished=["d", "c"]))
    assert slots(roster)["e"] == 1, "who inherits from a group without a place gets what is free"


def test_when_a_group_closes_the_last_takes_its_slot():
    scheduler, bank = Scheduler(), Births(4)
    roster = open_roster(bank=bank)
    roster.update(scheduler.step(*map(request, ["a", "b", "0_c", "1_c"])))
    roster.update(scheduler.step(finished=["a"]))
    assert slots(roster) == {"b": 1, "0_c": 0, "1_c": 0}
    assert bank.content[:2] == [2, 1]
    roster.update(scheduler.step(finished=["0_c"]))
    assert bank.content[:2] == [2, 1], "one of the two is still there"
    roster.update(scheduler.step(finished=["b"]))
    assert (slots(roster), bank.content[0], roster.open_groups) == ({"1_c": 0}, 2, 1)


@pytest.mark.parametrize("finished", list(itertools.permutations("acd")))
def test_the_order_in_which_requests_are_told_to_be_finished_does_not_matter(finished):
    scheduler, bank = Scheduler(), Births(8)
    roster = open_roster(bank=bank)
    roster.update(scheduler.step(*map(request, "abcdef")))
    roster.update(scheduler.step(finished=finished))
    assert slots(roster) == {"b": 1, "e": 2, "f": 0}
    assert bank.content[:3] == [5, 1, 4]


def test_without_a_free_slot_a_group_has_no_distiller_and_one_warning_says_so(caplog):
    scheduler, roster = Scheduler(), open_roster(capacity=2)
    roster.update(scheduler.step(*map(request, ["a", "b", "0_c", "d"])))
    assert slots(roster) == {"a": 0, "b": 1, "0_c": None, "d": None}
    roster.update(scheduler.step(finished=["a", "d"]))
    roster.update(scheduler.step(request("1_c"), request("e")))
    assert slots(roster) == {"b": 0, "0_c": None, "1_c": None, "e": 1}
    roster.update(scheduler.step(request("f")))
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert "all 2 groups are open" in warnings[0]
    assert "raise max_groups" in warnings[0]
    roster.update(scheduler.step(finished=["0_c", "1_c", "b", "e", "f"]))
    assert (roster.members, roster.open_groups) == ({}, 0)


def test_the_version_changes_with_members_and_slots_only():
    scheduler, roster = Scheduler(), open_roster()
    versions = []
    for arrivals, finished in [("ab", ""), ("", ""), ("c", ""), ("", ""), ("", "b"), ("", "")]:
        roster.update(scheduler.step(*map(request, arrivals), finished=list(finished)))
        versions.append(roster.version)
    changed = [before != after for before, after in itertools.pairwise([0, *versions])]
    assert changed == [True, False, True, False, True, False]


def test_all_requests_can_be_forgotten():
    scheduler, bank = Scheduler(), Births(4)
    roster = open_roster(bank=bank)
    roster.update(scheduler.step(*map(request, ["a", "0_b", "1_b", "c"])))
    before = roster.version
    roster.clear()
    assert (roster.members, roster.open_groups) == ({}, 0)
    assert roster.version != before
    roster.update(scheduler.step(request("2_b"), finished=["0_b"]))
    assert (slots(roster), bank.content[0]) == ({"2_b": 0}, 3), "those told of before stay away"


def test_nothing_of_ten_thousand_groups_is_left():
    scheduler, roster = Scheduler(), open_roster(capacity=64)
    for start in range(0, 10_000, 100):
        names = [f"{start + number}_{start + number}" for number in range(100)]
        roster.update(scheduler.step(*map(request, names)))
        assert roster.open_groups == 64
        roster.update(scheduler.step(finished=names))
    containers = [value for value in vars(roster).values() if isinstance(value, dict | list)]
    assert len(containers) >= 3
    assert not any(containers)


CAPACITY = 3
DISTILLER = RecursiveDistiller(features=4, ridge=10.0)


class GroupsGoTheirOwnWay(RuleBasedStateMachine):
    """Whatever opens and closes, each group's distiller is as if it had a bank of its own."""

    def __init__(self):
        super().__init__()
        self.scheduler, self.bank = Scheduler(), DISTILLER.open(CAPACITY, HIDDEN, "cpu")
        self.roster = open_roster(CAPACITY, self.bank)
        self.alone, self.count = {}, 0

    def parents(self):
        return {name.split("_")[1] for name in self.roster.members}

    @rule(parents=st.lists(st.sampled_from("pqrstu"), min_size=1, max_size=3))
    def come(self, parents):
        names = [f"{self.count + number}_{parent}" for number, parent in enumerate(parents)]
        self.count += len(names)
        for parent in parents:
            if parent not in self.alone:
                free = sum(bank is not None for bank in self.alone.values()) < CAPACITY
                self.alone[parent] = DISTILLER.open(1, HIDDEN, "cpu") if free else None
        self.roster.update(self.scheduler.step(*map(request, names)))

    @precondition(lambda self: self.roster.members)
    @rule(data=st.data())
    def finish(self, data):
        members = st.sampled_from(sorted(self.roster.members))
        names = data.draw(st.lists(members, min_size=1, max_size=4, unique=True))
        self.roster.update(self.scheduler.step(finished=names))
        self.alone = {name: bank for name, bank in self.alone.items() if name in self.parents()}

    @precondition(lambda self: self.roster.open_groups)
    @rule(seed=st.integers(0, 1000), order=st.randoms(use_true_random=False))
    def learn(self, seed, order):
        rows = [name for name, slot in slots(self.roster).items() if slot is not None]
        order.shuffle(rows)
        shallow, deep = (random_states(len(rows), seed=2 * seed + each) for each in (0, 1))
        at = [self.roster.members[name].group.slot for name in rows]
        layout = Layout.of(at, self.roster.open_groups)
        everyone = torch.ones(len(rows), dtype=torch.bool)
        self.bank.learn(shallow, deep, everyone, layout)
        for parent, bank in self.alone.items():
            own = [row for row, name in enumerate(rows) if name.split("_")[1] == parent]
            if bank is not None and own:
                alone = Layout.of([0] * len(own), 1)
                bank.learn(shallow[own], deep[own], everyone[own], alone)

    @invariant()
    def slots_are_compact(self):
        members = self.roster.members.values()
        taken = {member.group.slot for member in members} - {None}
        assert taken == set(range(self.roster.open_groups))
        assert self.roster.open_groups == sum(bank is not None for bank in self.alone.values())

    @invariant()
    def each_predicts_as_if_alone(self):
        probe = random_states(2, seed=9)
        for name, slot in slots(self.roster).items():
            bank = self.alone[name.split("_")[1]]
            assert (slot is None) == (bank is None)
            if bank is not None:
                found = self.bank.predict(probe, Layout.of([slot] * 2, self.roster.open_groups))
                torch.testing.assert_close(found, bank.predict(probe, Layout.of([0, 0], 1)))


TestGroupsGoTheirOwnWay = GroupsGoTheirOwnWay.TestCase
TestGroupsGoTheirOwnWay.settings = settings(max_examples=40, stateful_step_count=20)
