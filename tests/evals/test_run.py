import json
import shutil
from dataclasses import dataclass, field, replace

import pytest

from esamp.backends.scripted import ScriptedGenerator
from esamp.errors import UsageError
from esamp.evals.folder import RunFolder
from evals.runs import TEXTS, Counting, config, files, run_in, tools


def test_the_summary_is_that_of_the_script(tmp_path):
    summary = run_in(tmp_path / "run")
    assert [arm["arm"] for arm in summary["arms"]] == config().arms
    for arm in summary["arms"]:
        assert arm["pass_at_k"]["1"]["value"] == 0.5
        assert arm["pass_at_k"]["4"]["value"] == 1.0
        assert arm["entropy"]["value"] == pytest.approx(1.0)
        assert arm["perplexity"]["flat"]["value"] == pytest.approx(2.718281828)
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    timings = json.loads((tmp_path / "run" / "timings.json").read_text())
    assert [each["arm"] for each in timings["arms"]] == config().arms
    assert all(each["tokens_per_second"] > 0 for each in timings["arms"])


def test_lines_are_one_for_each_arm_seed_and_item_in_the_plans_order(tmp_path):
    run_in(tmp_path / "run")
    folder = RunFolder.existing(tmp_path / "run")
    keys = [key for batch in config().batches() for key in batch.keys]
    assert len(keys) == 3 * 2 * 3
    for log in (folder.samples, folder.grades, folder.measures):
        assert [(line["arm"], line["seed"], line["item"]) for line in log.lines()] == keys


@pytest.mark.parametrize("stop_at", range(12))
def test_a_run_that_is_stopped_anywhere_ends_with_the_same_files(tmp_path, stop_at):
    run_in(tmp_path / "whole")
    generator = Counting(ScriptedGenerator(texts=TEXTS), stop_at=stop_at)
    with pytest.raises(KeyboardInterrupt):
        run_in(tmp_path / "cut", with_tools=tools(generator))
    again = Counting(ScriptedGenerator(texts=TEXTS))
    run_in(tmp_path / "cut", with_tools=tools(again))
    assert again.calls == 12 - stop_at, "batches that were written are not generated again"
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


@pytest.mark.parametrize("log", ["samples", "grades", "measures", "timings"])
@pytest.mark.parametrize("lost", [1, 100, 700])
def test_a_log_that_lost_its_end_is_completed(tmp_path, log, lost):
    """A kill leaves any prefix of what was being written."""
    run_in(tmp_path / "whole")
    run_in(tmp_path / "cut")
    path = tmp_path / "cut" / f"{log}.jsonl"
    path.write_bytes(path.read_bytes()[:-lost])
    (tmp_path / "cut" / "summary.json").unlink()
    if log == "samples":
        # What is made from samples is never ahead of them.
        (tmp_path / "cut" / "measures.jsonl").unlink()
        (tmp_path / "cut" / "grades.jsonl").unlink()
    run_in(tmp_path / "cut")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_nothing_is_loaded_for_a_run_that_is_done(tmp_path):
    whole = run_in(tmp_path / "run")

    def never(*_):
        raise AssertionError("not needed")

    idle = tools()
    idle = type(idle)(generator=never, grading=never, measurers=never, progress=idle.progress)
    assert run_in(tmp_path / "run", with_tools=idle) == whole


def test_a_task_without_right_and_wrong_has_no_grades(tmp_path):
    summary = run_in(tmp_path / "run", config(verifiable=False), tools(grading=False))
    assert not (tmp_path / "run" / "grades.jsonl").exists()
    assert summary["arms"][0]["pass_at_k"] is None


def test_a_run_of_another_configuration_is_not_mixed_in(tmp_path):
    run_in(tmp_path / "run")
    with pytest.raises(UsageError, match=r"samples: 4 there, 2 now.*another --out"):
        run_in(tmp_path / "run", config(samples=2))


def test_seeds_can_be_added_behind_those_that_are_done(tmp_path):
    run_in(tmp_path / "whole")
    run_in(tmp_path / "grown", config(seeds=[0]))
    counting = Counting(ScriptedGenerator(texts=TEXTS))
    run_in(tmp_path / "grown", with_tools=tools(counting))
    assert files(tmp_path / "grown") == files(tmp_path / "whole")
    assert counting.calls == 6
    for seeds in ([0], [1, 0, 2], [0, 2, 1]):
        with pytest.raises(UsageError, match="another configuration"):
            run_in(tmp_path / "grown", config(seeds=seeds))


def test_arms_can_come_and_go_at_the_end(tmp_path):
    three = config(seeds=[0])
    two = config(seeds=[0], arms=three.arms[:2])
    run_in(tmp_path / "three", three)
    run_in(tmp_path / "two", two)
    run_in(tmp_path / "grown", two)
    counting = Counting(ScriptedGenerator(texts=TEXTS))
    run_in(tmp_path / "grown", three, tools(counting))
    assert files(tmp_path / "grown") == files(tmp_path / "three")
    assert counting.calls == 2
    # Cut within the second arm, and given up after it.
    shutil.copytree(tmp_path / "three", tmp_path / "cut")
    for name, end in (("samples", 5), ("grades", 4), ("measures", 0)):
        log = tmp_path / "cut" / f"{name}.jsonl"
        log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:end]))
    run_in(tmp_path / "cut", two)
    assert files(tmp_path / "cut") == files(tmp_path / "two")
    # What is done must be the beginning: an arm that is done cannot go, and with a second seed
    # behind it none can come.
    before = files(tmp_path / "three")
    for arms, seeds in [
        (three.arms[:2], [0]),
        (three.arms[::-1], [0]),
        (["min-p", *three.arms], [0]),
        (three.arms, [1]),
    ]:
        with pytest.raises(UsageError, match="another configuration"):
            run_in(tmp_path / "three", config(arms=arms, seeds=seeds))
    assert files(tmp_path / "three") == before
    run_in(tmp_path / "three", config(seeds=[0, 1]))
    with pytest.raises(UsageError, match=r"another configuration \(arms: "):
        run_in(tmp_path / "three", config(arms=[*three.arms, "min-p"]))


def test_a_run_without_samples_may_become_another(tmp_path):
    for settings in (config(samples=2), config()):
        with RunFolder.open(tmp_path / "run", settings) as folder:
            (tmp_path / "run" / "samples.jsonl").write_text('{"arm": "vani')  # torn
    assert folder.config() == config()
    run_in(tmp_path / "run")
    with pytest.raises(UsageError, match="another configuration"):
        run_in(tmp_path / "run", config(samples=2))
    (tmp_path / "matched").mkdir()
    (tmp_path / "matched" / "calibration.json").write_text("{}")  # of the model that was
    with RunFolder.open(tmp_path / "matched", config()):
        pass
    with pytest.raises(UsageError, match="another configuration"):
        run_in(tmp_path / "matched", config(model="other"))


def test_a_run_to_which_seeds_are_added_is_not_complete_any_more(tmp_path):
    run_in(tmp_path, config(seeds=[0]))
    with RunFolder.open(tmp_path, config()):
        assert not (tmp_path / "summary.json").exists()


def test_an_arm_is_matched_to_the_entropy_of_another(tmp_path):
    """The script's entropy is one nat whatever the temperature, so the first try is kept."""
    arms = ["entropy-matched(arm=esamp)", "esamp", "vanilla"]
    summary = run_in(tmp_path / "run", config(arms=arms))
    found = json.loads((tmp_path / "run" / "calibration.json").read_text())
    assert found == {arms[0]: {"temperature": 1.0, "entropy": 1.0, "target": 1.0}}
    assert [arm["arm"] for arm in summary["arms"]] == arms
    assert summary["arms"][0]["temperature"] == 1.0


def test_an_arm_that_is_matched_to_none_is_refused():
    with pytest.raises(UsageError, match="add --arm 'esamp'"):
        config(arms=["vanilla", "entropy-matched(arm=esamp)"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 0}, "samples is 0"),
        ({"score_samples": 0}, "score-samples is 0: give 1 or more, or --scorer none"),
        ({"arms": ["vanilla", "vanilla"]}, "'vanilla' is twice among the arms"),
        ({"seeds": []}, "there are no seeds"),
        ({"embedders": ["e", "e"]}, "'e' is twice among the embedders"),
        ({"arms": ["magic"]}, "there is no arm 'magic'"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        config(**changes)


@dataclass
class Surprising:
    """Gives a script whose tokens cost, in nats, what the prompt, the method and the seed say."""

    within: ScriptedGenerator
    costs: dict = field(default_factory=lambda: {"Say a.": 0.5, "Say b.": 1.0, "Say c.": 9.0})

    def generate(self, request, method, progress=None):
        replayed = self.within.generate(request, method, progress)
        drawn = []
        for prompt, group in zip(request.prompts, replayed.completions, strict=True):
            cost = request.sampling.temperature
            if method.name != "vanilla":
                cost = self.costs[prompt] + request.seed
            drawn.append([replace(each, logprobs=[-cost] * len(each.token_ids)) for each in group])
        return replace(replayed, completions=drawn)

    def pieces(self, token_ids):
        return self.within.pieces(token_ids)


def test_the_entropy_matched_is_that_of_the_first_batch_of_the_first_seed(tmp_path):
    arms = ["vanilla", "fire", "entropy-matched(arm=esamp)", "esamp"]
    settings = config(arms=arms, seeds=[1, 0])
    run_in(tmp_path / "run", settings, tools(Surprising(ScriptedGenerator(texts=TEXTS))))
    calibrated = json.loads((tmp_path / "run" / "calibration.json").read_text())
    found = calibrated["entropy-matched(arm=esamp)"]
    assert found["target"] == pytest.approx((1.5 + 2.0) / 2), "of items a and b, seed 1"
    assert found["temperature"] == pytest.approx(found["target"], rel=0.01)
