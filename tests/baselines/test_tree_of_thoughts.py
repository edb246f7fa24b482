import pytest
from hypothesis import given
from hypothesis import strategies as st

from esamp import UsageError
from esamp.baselines import TreeOfThoughts


@given(st.text(), st.integers(2, 9))
def test_the_prompt_stands_at_the_end_as_it_was(prompt, branches):
    asked = TreeOfThoughts(branches=branches)(prompt)
    assert asked.endswith(f"Task:\n{prompt}")


def test_the_number_of_branches_is_asked_for():
    assert "sketch three clearly different ways" in TreeOfThoughts()("2 + 2")
    assert "sketch 7 clearly different ways" in TreeOfThoughts(branches=7)("2 + 2")


def test_one_branch_is_no_tree():
    with pytest.raises(UsageError, match="branches is 1: give 2 or more"):
        TreeOfThoughts(branches=1)
