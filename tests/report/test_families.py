from hypothesis import given
from hypothesis import strategies as st

from esamp.report.arms import label_arms, marks, sweeps


def test_arms_that_differ_in_one_number_are_a_family_defaults_filled_in():
    labels = label_arms(
        ["vanilla", "vanilla(temperature=0.8)", "esamp", "esamp(beta=1)",
         "esamp(distiller=mean)", "esamp(beta=0.5, distiller=mean)", "min-p"]
    )  # fmt: skip
    assert [(each.family, each.short) for each in labels.values()] == [
        ("vanilla", "T 1"), ("vanilla", "T 0.8"),
        ("esamp, recursive", "β 0.25"), ("esamp, recursive", "β 1"),
        ("esamp, mean", "β 0.25"), ("esamp, mean", "β 0.5"),
        ("min-p", "min-p"),
    ]  # fmt: skip
    assert [name for name, each in labels.items() if each.vanilla] == [
        "vanilla", "vanilla(temperature=0.8)"
    ]  # fmt: skip


def test_sweeps_are_in_the_order_of_their_values():
    labels = label_arms(["esamp(beta=1)", "esamp", "vanilla(temperature=0.8)", "vanilla", "fire"])
    found = {
        parameter: {family: [arm.value for arm in arms] for family, arms in families.items()}
        for parameter, families in sweeps(labels).items()
    }
    assert found == {"beta": {"esamp": [0.25, 1.0]}, "temperature": {"vanilla": [0.8, 1.0]}}


def test_vanilla_with_truncation_is_no_point_of_the_curve():
    labels = label_arms(["vanilla", "vanilla(top_p=0.9)", "vanilla(temperature=0.8, top_p=0.9)"])
    assert [each.vanilla for each in labels.values()] == [True, False, False]
    assert labels["vanilla"].family == "vanilla"
    assert labels["vanilla(top_p=0.9)"].family == "vanilla, top p 0.9"


def test_marks_differ_and_vanilla_is_neutral():
    names = ["vanilla", *(f"method{number}" for number in range(18))]
    labels = label_arms(names)
    drawn = marks(labels)
    assert drawn["vanilla"].colour == "plain"
    others = [(each.colour, each.shape) for family, each in drawn.items() if family != "vanilla"]
    assert len(set(others)) == 18


@given(st.lists(st.text(max_size=30), max_size=6, unique=True))
def test_no_name_is_too_strange(names):
    labels = label_arms(names)
    assert list(labels) == names
    assert set(marks(labels)) == {each.family for each in labels.values()}
    sweeps(labels)
