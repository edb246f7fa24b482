from types import SimpleNamespace

import pytest
import torch

from esamp.backends.vllm import clock
from esamp.backends.vllm.clock import Clock

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def wait(monkeypatch):
    """Let seconds pass; no others do."""
    now = 0.0

    def wait(seconds):
        nonlocal now
        now += seconds

    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: now))
    return wait


def test_a_clock_that_is_off_keeps_no_account(wait):
    clock = Clock(False, CPU)
    with clock.step(), clock.own():
        wait(1.0)
    assert clock.read() == {"own_seconds": None, "step_seconds": None}
    assert (clock.own_seconds, clock.step_seconds) == (0.0, 0.0)


def test_what_is_our_own_is_within_the_step(wait):
    clock = Clock(True, CPU)
    assert clock.read() == {"own_seconds": 0.0, "step_seconds": 0.0}
    for _ in range(2):
        with clock.step():
            wait(8.0)
            with clock.own():
                wait(1.0)
            wait(4.0)
            with clock.own():
                wait(2.0)
        wait(100.0)
    assert clock.read() == {"own_seconds": 6.0, "step_seconds": 30.0}


def test_nested_marks_count_once(wait):
    clock = Clock(True, CPU)
    with clock.own():
        wait(1.0)
        with clock.own(), clock.own():
            wait(2.0)
        wait(4.0)
    assert clock.own_seconds == 7.0


def test_time_until_an_error_counts_and_the_clock_goes_on(wait):
    clock = Clock(True, CPU)

    def fail():
        with clock.step(), clock.own(), clock.own():
            wait(1.0)
            raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            fail()
    assert clock.read() == {"own_seconds": 2.0, "step_seconds": 2.0}


@pytest.mark.parametrize(
    ("on", "device", "waits"), [(True, CUDA, 4), (True, CPU, 0), (False, CUDA, 0)]
)
def test_only_a_clock_that_is_on_waits_for_the_gpu(on, device, waits, monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append(1))
    clock = Clock(on, device)
    with clock.step(), clock.own(), clock.own():
        pass
    assert len(calls) == waits
