import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_lines import grade_line, measure_line

from esamp.errors import UsageError
from esamp.evals.metrics import maj_at_k, pass_at_k
from esamp.evals.table import ArmSettings, SummarySettings, Table, ks_of

ARMS, SEEDS, ITEMS = ["vanilla", "esamp"], [3, 5], ["a", "b", "c"]


def table():
    return Table(ARMS, SEEDS, ITEMS)


@pytest.mark.parametrize(
    ("samples", "ks"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (64, [1, 2, 4, 8, 16, 32, 64])]
)
def test_ks_are_powers_of_two_and_all_samples(samples, ks):
    assert ks_of(samples) == ks


def test_a_line_fills_the_cells_of_its_seed_and_item():
    run = table()
    run.add_measures([measure_line("esamp", 5, "c", vendi=4.5, nll=[30.0, 10], tokens=12)])
    vendi = run.cells("esamp", ("vendi", "E", "1"))
    assert vendi.above.tolist() == [[0, 0, 0], [0, 0, 4.5]]
    assert vendi.below.tolist() == [[0, 0, 0], [0, 0, 1]]
    nats = run.cells("esamp", ("log_perplexity", "own"))
    assert (nats.above[1, 2], nats.below[1, 2]) == (30, 10)
    length = run.cells("esamp", ("tokens_per_sample",))
    assert (length.above[1, 2], length.below[1, 2]) == (12, 4)
    assert (run.found("esamp"), run.found("vanilla"), run.found("esamp", "grades")) == (1, 0, 0)


def test_entropy_and_kl_are_per_token():
    run = table()
    run.add_measures([measure_line("esamp", 3, "a", logprob=-24.0, reference_logprob=-36.0)])
    whole = np.ones((1, 3))
    assert run.cells("esamp", ("entropy",)).ratio(whole) == pytest.approx(24 / 40)
    assert run.cells("esamp", ("kl",)).ratio(whole) == pytest.approx(12 / 40)


@pytest.mark.parametrize(
    ("changes", "measure"),
    [
        ({"reference_logprob": None}, ("kl",)),
        ({"logprob": None}, ("kl",)),
        ({"logprob": None}, ("entropy",)),
        ({"tokens": 0}, ("entropy",)),
        ({"nll": [0.0, 0]}, ("log_perplexity", "own")),
        ({"similarity": None}, ("similarity", "E")),
        ({"cut": None}, ("cut", "E")),
    ],
)
def test_what_is_undefined_has_no_cell(changes, measure):
    run = table()
    run.add_measures([measure_line("vanilla", 3, "a", **changes)])
    assert not run.cells("vanilla", measure).defined.any()


@pytest.mark.parametrize("wrong", [("no arm", 3, "a"), ("esamp", 4, "a"), ("esamp", 3, "z")])
def test_a_line_of_another_run_is_refused(wrong):
    with pytest.raises(UsageError, match="belong to no group of this run"):
        table().add_measures([measure_line(*wrong)])
    with pytest.raises(UsageError, match="belong to no group of this run"):
        table().add_grades([grade_line(*wrong, [True])], [1])


def test_a_line_that_comes_twice_is_refused():
    run, line = table(), measure_line("esamp", 3, "a")
    run.add_measures([line])
    with pytest.raises(UsageError, match="come twice"):
        run.add_measures([line])


def test_grades_are_pass_maj_and_answers():
    run = table()
    run.add_grades([grade_line("esamp", 3, "b", [True, False, True], ["1", "2", "1"])], [1, 2, 8])
    whole = np.ones((1, 3))
    for k in (1, 2):
        passed = run.cells("esamp", ("pass_at_k", str(k))).ratio(whole)[0]
        majority = run.cells("esamp", ("maj_at_k", str(k))).ratio(whole)[0]
        assert passed == pass_at_k(3, 2, k)
        assert majority == maj_at_k(["1", "2", "1"], [True, False, True], k)
    assert run.cells("esamp", ("distinct_answers",)).ratio(whole)[0] == 2
    assert not run.cells("esamp", ("pass_at_k", "8")).defined.any()
    assert run.answered


def test_without_any_answer_there_was_no_vote():
    run = table()
    run.add_grades([grade_line("esamp", 3, "b", [True, False], [None, None])], [1])
    assert not run.answered


def test_curves_are_means_over_the_groups_that_reach_a_position():
    run = table()
    run.add_measures(
        [
            measure_line("esamp", 3, "a", novelty=[None, 0.5, 0.25]),
            measure_line("esamp", 3, "b", novelty=[None, 0.1], distiller_error=[1.0]),
            measure_line("vanilla", 3, "b", novelty=None),
        ]
    )
    assert run.curve("esamp", "novelty") == [None, 0.3, 0.25]
    assert run.curve("esamp", "distiller_error") == [1.0]
    assert run.curve("vanilla", "novelty") is None


@given(st.permutations([(seed, item) for seed in SEEDS for item in ITEMS]))
def test_the_order_of_lines_does_not_matter(order):
    def fill(keys):
        run = table()
        run.add_measures(
            measure_line("esamp", seed, item, vendi=1 + seed / 7, novelty=[1 / seed, 0.1 * seed])
            for seed, item in keys
        )
        return run

    one, other = fill(order), fill(sorted(order))
    assert one.curve("esamp", "novelty") == other.curve("esamp", "novelty")
    for measure in one.measures("esamp"):
        assert np.array_equal(
            one.cells("esamp", measure).above, other.cells("esamp", measure).above
        )


# -- settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "vanilla"),
    [
        ("vanilla", True),
        ("vanilla(temperature=0.8)", True),
        ("vanilla(temperature=0.8, top_p=0.9)", False),
        ("vanilla-entropy(temperature=1)", False),
        ("esamp(beta=0.25)", False),
    ],
)
def test_names_say_who_is_on_the_vanilla_curve(name, vanilla):
    assert ArmSettings(name=name, temperature=1.0).vanilla is vanilla


def settings(**changes):
    arms = [ArmSettings(name=name, temperature=1.0) for name in ARMS]
    given = {
        "task": "t",
        "model": "m",
        "backend": "b",
        "samples": 4,
        "seeds": SEEDS,
        "items": ITEMS,
        "arms": arms,
        "embedders": ["E"],
        "scorers": ["own"],
        "verifiable": False,
    }
    return SummarySettings(**{**given, **changes})


def test_plain_vanilla_is_the_one_at_temperature_one():
    cool = ArmSettings(name="vanilla(temperature=0.8)", temperature=0.8)
    warm = ArmSettings(name="vanilla(temperature=1.0)", temperature=1.0)
    assert settings().plain == "vanilla"
    assert settings(arms=[cool, warm]).plain == warm.name
    assert settings(arms=[cool]).plain is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 0}, "samples is 0"),
        ({"seeds": []}, "there is no seed"),
        ({"items": ["a", "a"]}, "one item is there twice"),
        ({"arms": []}, "there is no arm"),
    ],
)
def test_settings_that_fit_no_run_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        settings(**changes)
