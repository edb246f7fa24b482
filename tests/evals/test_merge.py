import json

import pytest

from esamp.backends.scripted import ScriptedGenerator
from esamp.errors import UsageError
from esamp.evals.folder import RunFolder
from esamp.evals.merge import merge_runs
from evals.runs import TEXTS, Counting, config, files, run_in, tools

MATCHED = ["vanilla", "esamp(beta=0.5)", "entropy-matched(arm=esamp(beta=0.5))"]


@pytest.fixture
def make(tmp_path):
    """Do a run, as a part to merge."""

    def make(name, seeds, **changes):
        path = tmp_path / name
        settings = config(seeds=seeds, **changes)
        run_in(path, settings, tools(grading=settings.verifiable))
        for beside, data in (("environment.json", {"cores": 2}), ("items.json", {"a": "Say a."})):
            RunFolder(path).write(beside, data)
        return RunFolder.existing(path), settings

    return make


@pytest.mark.parametrize("verifiable", [True, False])
def test_merged_seeds_are_the_run_of_all_seeds(make, tmp_path, verifiable):
    whole, _ = make("whole", [0, 1, 2], verifiable=verifiable)
    parts = [make("a", [0, 1], verifiable=verifiable), make("b", [2], verifiable=verifiable)]
    summary = merge_runs(parts, tmp_path / "merged")
    assert files(tmp_path / "merged") == files(whole.path)
    assert summary == json.loads((tmp_path / "merged" / "summary.json").read_text())
    lines = (tmp_path / "merged" / "timings.jsonl").read_text()
    assert lines == "".join((part.path / "timings.jsonl").read_text() for part, _ in parts)


def test_a_merge_that_was_cut_is_gone_on_with_and_may_grow(make, tmp_path):
    whole, _ = make("whole", [0, 1, 2])
    parts = [make(str(seed), [seed]) for seed in (0, 1, 2)]
    merge_runs(parts[:2], tmp_path / "merged")
    for log in ("samples", "measures", "timings"):
        path = tmp_path / "merged" / f"{log}.jsonl"
        path.write_bytes(path.read_bytes()[:-100])
    merge_runs(parts, tmp_path / "merged")
    assert files(tmp_path / "merged") == files(whole.path)
    assert len(list(RunFolder(tmp_path / "merged").timings.lines())) == 3 * 3 * 2


def test_parts_must_be_complete_and_go_together(make, tmp_path):
    part, other = make("part", [0]), make("other", [1])
    out = tmp_path / "merged"
    with pytest.raises(UsageError, match=r"seed 0 is in .*part and in .*again"):
        merge_runs([part, make("again", [0])], out)
    with pytest.raises(UsageError, match=r"few is not of the configuration.*samples: 4 there"):
        merge_runs([part, make("few", [1], samples=3)], out)
    measures = other[0].measures.path
    measures.write_bytes(measures.read_bytes()[:-1])
    with pytest.raises(UsageError, match=r"other is not complete \(measures.jsonl\)"):
        merge_runs([part, other], out)
    assert not out.exists(), "nothing was begun"


def test_matched_arms_have_one_temperature(make, tmp_path):
    first = make("first", [0], arms=MATCHED)
    second = make("second", [1], arms=MATCHED)
    whole, _ = make("whole", [0, 1], arms=MATCHED)
    merge_runs([first, second], tmp_path / "merged")
    assert files(tmp_path / "merged") == files(whole.path)
    # A run that begins with the temperatures of another takes them, and finds none of its own.
    data = first[0].read("calibration.json")
    data["entropy-matched(arm=esamp(beta=0.5))"]["temperature"] = 0.5
    (tmp_path / "third").mkdir()
    RunFolder(tmp_path / "third").write("calibration.json", data)
    third = make("third", [2], arms=MATCHED)
    assert third[0].read("calibration.json") == data
    assert third[0].read("summary.json")["arms"][-1]["temperature"] == 0.5
    with pytest.raises(UsageError, match="different temperatures"):
        merge_runs([first, third], tmp_path / "another")


def test_machines_that_differ_are_all_named(make, tmp_path):
    first, second = make("first", [0]), make("second", [1])
    second[0].write("environment.json", {"cores": 64})
    merge_runs([first, second], tmp_path / "merged")
    assert RunFolder(tmp_path / "merged").read("environment.json") == {
        str(first[0].path): {"cores": 2},
        str(second[0].path): {"cores": 64},
    }


def test_what_the_script_says_again_is_not_generated(make, tmp_path):
    """A merged run is a run: with its own arguments there is nothing left to do."""
    parts = [make("first", [0]), make("second", [1])]
    merge_runs(parts, tmp_path / "merged")
    generator = Counting(ScriptedGenerator(texts=TEXTS), stop_at=0)
    run_in(tmp_path / "merged", with_tools=tools(generator))
    assert generator.calls == 0
