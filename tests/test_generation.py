import math

import pytest

from esamp.errors import UsageError
from esamp.generation import Request, Sampling, Stats

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", -0.1, "temperature is -0.1: give a finite number, 0 or above"),
        ("temperature", INF, "temperature is inf"),
        ("temperature", NAN, "temperature is nan"),
        ("top_p", 0.0, "top-p is 0.0: give a number above 0 and at most 1"),
        ("top_p", 1.01, "top-p is 1.01"),
        ("top_p", NAN, "top-p is nan"),
        ("top_k", -1, r"top-k is -1: give 0 \(off\) or a positive number"),
        ("min_p", -0.1, "min-p is -0.1: give a number from 0"),
        ("min_p", 1.01, "min-p is 1.01"),
        ("min_p", NAN, "min-p is nan"),
        ("max_new_tokens", 0, "max-new-tokens is 0: give 1 or more"),
    ],
)
def test_sampling_refuses_what_cannot_be_and_says_what_can(name, value, message):
    with pytest.raises(UsageError, match=message):
        Sampling(**{name: value})


def test_sampling_takes_the_ends_of_its_ranges():
    Sampling(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, max_new_tokens=1)
    Sampling(temperature=9.0, top_p=1e-9, top_k=10**6, min_p=1.0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("samples", 0, "samples is 0: give 1 or more"),
        ("prompts", [], "there is no prompt: give at least one"),
        ("prompts", ["a", " \n"], "prompt 2 is empty: give some text"),
        ("seed", -1, "seed is -1: give a whole number from 0 to"),
        ("seed", 2**63, f"seed is {2**63}"),
    ],
)
def test_a_request_refuses_what_cannot_be_and_says_what_can(name, value, message):
    with pytest.raises(UsageError, match=message):
        Request(**{"prompts": ["a"], name: value})


@pytest.mark.parametrize("seed", [None, 0, 2**63 - 1])
def test_a_request_takes_any_seed_or_none(seed):
    assert Request(prompts=["a"], seed=seed).seed == seed


def test_throughput_counts_the_tokens_of_all_samples():
    assert (
        Stats(tokens=300, seconds=2.0, distiller_error=[], nonfinite_rows=0).tokens_per_second
        == 150
    )
