import json

import pytest

from esamp.cli.compare import compare
from esamp.errors import UsageError
from evals.made_lines import grade_line, measure_line
from report.fixtures import config, summary, write_run

ITEMS = [f"item-{number}" for number in range(24)]


@pytest.fixture
def folder(tmp_path):
    """ESamp has 0.5 more Vendi everywhere, and as many right answers."""
    data = summary(["vanilla", "esamp(beta=0.5)"], verifiable=True, steps=2)
    stored = config(data, embedders=["E"], scorers=["own"], samples=4)
    folder = write_run(tmp_path / "run", data, **{"config.json": stored})
    with (
        (folder / "measures.jsonl").open("w") as measures,
        (folder / "grades.jsonl").open("w") as g,
    ):
        for seed in (0, 1, 2):
            for arm, extra in (("vanilla", 0.0), ("esamp(beta=0.5)", 0.5)):
                for place, item in enumerate(ITEMS):
                    vendi = 2.0 + place / 24 + extra
                    measures.write(json.dumps(measure_line(arm, seed, item, vendi=vendi)) + "\n")
                    right = [place % 2 == 0, False, False, False]
                    g.write(json.dumps(grade_line(arm, seed, item, right)) + "\n")
    return folder


def test_json_has_every_difference_with_its_interval(folder, capsys):
    compare(folder, "esamp(beta=0.50)", "vanilla(temperature=1)", json=True)
    result = json.loads(capsys.readouterr().out)
    assert (result["a"], result["b"]) == ("esamp(beta=0.5)", "vanilla")
    found = {(each["measure"], each["k"]): each for each in result["differences"]}
    vendi = found["vendi:E", None]
    assert vendi["difference"] == pytest.approx(0.5)
    assert vendi["low"] == pytest.approx(0.5)
    assert found["pass_at_k", 1]["difference"] == 0
    assert any(name.startswith("dynamics") for name, _ in found)


def test_the_table_names_arms_measures_and_intervals(folder, capsys):
    compare(folder, "esamp(beta=0.5)", "vanilla", json=False)
    printed = " ".join(capsys.readouterr().out.split())
    assert "esamp(beta=0.5) less vanilla" in printed
    assert "vendi:E │ +0.500 │ +0.500 to +0.500" in printed
    assert "pass@1 │ +0.0 pp │ +0.0 pp to +0.0 pp" in printed
    assert "dynamics" not in printed


def test_an_incomplete_run_is_compared_as_far_as_it_is(folder, capsys):
    (folder / "summary.json").unlink()
    compare(folder, "esamp(beta=0.5)", "vanilla", json=True)
    assert "not complete" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("a", "message"), [("fire", "no arm 'fire'"), ("esmp", "esmp"), ("esamp(beta=x)", "number")]
)
def test_an_arm_that_is_not_there(folder, a, message):
    with pytest.raises(UsageError, match=message):
        compare(folder, a, "vanilla", json=True)


def test_no_run_folder(tmp_path):
    with pytest.raises(UsageError, match="no run folder"):
        compare(tmp_path, "esamp", "vanilla", json=True)
