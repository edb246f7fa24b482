import math

import pytest
import torch

from esamp.backends.vllm import totals
from esamp.backends.vllm.totals import Totals
from no_sync import ForbidHostSync


def count(*steps):
    counted = Totals(torch.device("cpu"))
    for novelty in steps:
        counted.count(torch.tensor(novelty))
    return counted


def test_before_the_first_step():
    assert count().read() == {
        "rows_steered": 0,
        "rows_fallback": 0,
        "rows_nonfinite": 0,
        "groups_open": 0,
        "distiller_error": None,
        "steps": 0,
        "faults": {},
    }
    assert count().recent_errors(0) == []


def test_rows_are_counted_by_what_the_explorer_says_of_them():
    counted = count([1.0, math.nan, 2.0], [math.nan], [3.0])
    counted.groups_open = 2
    assert counted.read() == {
        "rows_steered": 3,
        "rows_fallback": 2,
        "rows_nonfinite": 2,
        "groups_open": 2,
        "distiller_error": pytest.approx((1 + 4 + 9) / 3),
        "steps": 3,
        "faults": {},
    }


def test_rows_that_fell_back_are_not_steered_also_where_they_were_counted_so():
    counted = count([1.0, math.nan, 2.0], [3.0])
    before = counted.read()
    counted.fall_back(5, counted=False)
    assert counted.read() == before | {"rows_fallback": 1 + 5}
    counted.fall_back(2, counted=True)
    # What was learnt of them stays: the distillers' error is over all that were judged.
    assert counted.read() == before | {"rows_fallback": 1 + 5 + 2, "rows_steered": 1}
    counted.count(torch.ones(4))
    assert counted.read()["rows_steered"] == 1 + 4


def test_each_step_has_its_mean_squared_novelty():
    counted = count([1.0, math.nan, 2.0], [math.nan], [3.0], [])
    assert counted.recent_errors(0) == [2.5, None, 9.0, None]
    assert counted.recent_errors(2) == [9.0, None]
    assert counted.recent_errors(4) == []


def test_steps_that_are_no_longer_kept(monkeypatch):
    monkeypatch.setattr(totals, "RECENT", 3)
    counted = count(*([float(step)] for step in range(5)))
    assert counted.recent_errors(0) == [None, None, 4.0, 9.0, 16.0]
    assert counted.recent_errors(3) == [9.0, 16.0]
    assert counted.read()["distiller_error"] == pytest.approx(30 / 5)


def test_many_rows_are_counted_exactly():
    """In fp32 a count would stop at 2^24."""
    counted = count([1.0])
    counted._sums += 2.0**24
    counted.count(torch.ones(1))
    assert counted.read()["rows_steered"] == 2**24 + 2


def test_faults_are_counted_by_kind_and_the_first_of_each_is_told():
    counted = count()
    assert [counted.note_fault(kind) for kind in "abaab"] == [True, True, False, False, False]
    faults = counted.read()["faults"]
    assert faults == {"a": 3, "b": 2}
    counted.note_fault("a")
    assert faults == {"a": 3, "b": 2}, "what was read is a copy"


def test_counting_does_not_wait_for_the_device():
    counted, novelty = count(), torch.tensor([1.0, math.nan])
    with ForbidHostSync():
        counted.count(novelty)
    assert counted.read()["steps"] == 1
