import pytest

from esamp.evals.metrics import mean_by_position, positions_up_to, reaching


@pytest.mark.parametrize(
    ("longest", "positions"),
    [(0, []), (7, []), (8, [8]), (63, [8, 16, 32]), (64, [8, 16, 32, 64])],
)
def test_positions_double_up_to_the_longest(longest, positions):
    assert positions_up_to(longest) == positions


def test_only_samples_that_reach_a_position_are_compared_there():
    assert reaching([8, 7, 9, 0], 8) == [0, 2]
    assert reaching([8, 7], 16) == []


def test_the_mean_by_position_leaves_out_what_is_none():
    rows = [[None, 1.0, 3.0], [None, 2.0], [None, None, 5.0, None]]
    assert mean_by_position(rows) == [None, 1.5, 4.0, None]
    assert mean_by_position([]) == []
