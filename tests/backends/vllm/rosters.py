"""Rosters without an engine, and a bank that shows what happens to its slots."""

import itertools

from esamp.backends.vllm.roster import Roster
from esamp.explorer import ESamp


class Births:
    """A bank whose distillers are numbered by when they were made new."""

    def __init__(self, capacity):
        self.content = [None] * capacity
        self._count = itertools.count()

    def predict(self, shallow, layout):
        raise NotImplementedError

    def learn(self, shallow, deep, taught, layout):
        raise NotImplementedError

    def reset(self, groups):
        for group in groups.tolist():
            self.content[group] = next(self._count)

    def move(self, source, target):
        self.content[target], self.content[source] = self.content[source], None


def open_roster(capacity=8, bank=None, **defaults):
    esamp = ESamp(**{"beta": 0.0} | defaults)
    return Roster(esamp, capacity, Births(capacity) if bank is None else bank, "cpu")


def slots(roster):
    return {name: member.group.slot for name, member in roster.members.items()}


def steered(roster):
    return [name for name, member in roster.members.items() if member.steered]
