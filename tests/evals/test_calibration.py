import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esamp.evals.calibration import COLDEST, HOTTEST, MOST, TOLERANCE, calibrate


@given(st.floats(0.1, 2.5), st.floats(0.5, 3.0))
def test_a_temperature_of_that_entropy_is_found(temperature, power):
    tried = []

    def entropy_at(value):
        tried.append(value)
        return value**power

    found = calibrate(entropy_at, temperature**power)
    assert found.entropy == pytest.approx(found.target, rel=0.05)
    assert found.entropy == found.temperature**power
    assert len(tried) <= MOST
    if abs(found.entropy - found.target) > TOLERANCE * found.target:
        assert len(tried) == MOST, "it goes on while it is not near enough"


@pytest.mark.parametrize(("target", "end"), [(0.0, COLDEST), (math.inf, HOTTEST)])
def test_an_entropy_out_of_reach_gives_the_nearest_end(target, end):
    found = calibrate(lambda temperature: temperature, min(target, 99.0))
    assert found.temperature == pytest.approx(end, rel=0.02)
