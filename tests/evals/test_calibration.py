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


@given(st.floats(0.3, 1.5))
def test_few_tries_are_enough_where_models_are(temperature):
    """Entropies of SmolLM2 on stories: 1.0 nats at 0.6, 3.2 at 1, 5.4 at 1.2."""
    tried = []

    def entropy_at(value):
        tried.append(value)
        return 3.2 * value**2.4

    calibrate(entropy_at, entropy_at(temperature))
    assert len(tried) <= 1 + 5


@pytest.mark.parametrize(("target", "end"), [(0.0, COLDEST), (math.inf, HOTTEST)])
def test_an_entropy_out_of_reach_gives_the_nearest_end(target, end):
    found = calibrate(lambda temperature: temperature, min(target, 99.0))
    assert found.temperature == pytest.approx(end, rel=0.02)
