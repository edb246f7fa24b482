import json

import pytest

from esamp.evals.records import SampleRecord
from esamp.report import samples
from esamp.report.runs import read_run
from esamp.report.samples import CHARACTERS, ITEMS, PROMPT, SAMPLES, select, shade
from report.fixtures import sample, samples_lines, summary, write_run

ARMS = ["vanilla", "esamp"]


def record(text, ends, novelty):
    return SampleRecord(text=text, finish_reason="stop", ends=ends, logprob=-1.0, novelty=novelty)


def text_of(shown):
    return "".join(each.text for each in shown.stretches)


def test_stretches_are_the_text_and_have_the_shade_of_their_tokens():
    shown = shade(record("one two three", [3, 7, 13], [None, 0.5, 0.9]), [0.6, 0.8])
    # Smoothed over the neighbours: .5 and .9 both become .7.
    assert [(each.text, each.shade) for each in shown] == [("one", 0), (" two three", 1)]
    shown = shade(record("ab", [1, 2], [0.1, 0.1]), [0.6, 0.8])
    assert [(each.text, each.shade) for each in shown] == [("ab", 0)]


def test_without_novelty_nothing_is_shaded_and_text_after_the_last_token_is_kept():
    shown = shade(record("one two", [3], None), [])
    assert [(each.text, each.shade) for each in shown] == [("one two", 0)]


def test_ends_that_go_back_repeat_no_text():
    shown = shade(record("abcdef", [3, 2, 6], [None, None, None]), [])
    assert "".join(each.text for each in shown) == "abcdef"


@pytest.fixture
def run(tmp_path):
    return read_run(write_run(tmp_path / "run", summary(ARMS, verifiable=True, steps=2)))


def test_the_first_items_of_the_first_seed_arms_in_order(run):
    found = select(run)
    assert found.seed == 0
    assert found.notes == []
    assert [each.name for each in found.samples] == [f"item-{place}" for place in range(ITEMS)]
    assert [[group.arm for group in each.groups] for each in found.samples] == [ARMS] * ITEMS
    group = found.samples[1].groups[1]
    assert len(group.samples) == SAMPLES
    assert group.left_out == 6 - SAMPLES
    assert text_of(group.samples[2]).endswith("[0/1/2]")
    assert [each.grade for each in group.samples[:2]] == ["right: 7", "wrong: 8"]
    assert group.samples[0].ended.endswith("tokens, ended by itself")
    assert found.shaded


def test_long_samples_are_cut_and_say_so(tmp_path):
    data = summary(ARMS, steps=2)
    lines = list(samples_lines(data))
    lines[0]["samples"][0] = sample("word " * 1000)
    found = select(read_run(write_run(tmp_path / "run", data, lines)))
    shown = found.samples[0].groups[0].samples[0]
    assert len(text_of(shown)) == CHARACTERS
    assert shown.left_out == 5000 - CHARACTERS


def test_reading_stops_once_all_are_found_and_parses_only_those(run, monkeypatch):
    parsed = []
    loads = json.loads

    def counted(text):
        parsed.append(len(text))
        return loads(text)

    monkeypatch.setattr(samples.json, "loads", counted)
    select(run)
    whole = [length for length in parsed if length > 1000]
    assert len(whole) == len(ARMS) * ITEMS
    # Of the 24 groups in the file, seeds 1 and 2 are not looked at.
    assert len(parsed) - len(whole) < 30


def test_a_torn_last_line_and_a_damaged_one_are_noted(run):
    path = run.folder / "samples.jsonl"
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*whole[:2], "no json\n", *whole[3:6], whole[6][:200]]))
    found = select(run)
    assert found.notes == [
        "Line 3 of samples.jsonl is damaged and left out.",
        "The last line of samples.jsonl is torn and left out.",
        "samples.jsonl lacks 2 of the 6 groups to be shown here.",
    ]
    assert [len(each.groups) for each in found.samples] == [2, 2]


def test_without_the_file_there_is_a_note(run):
    (run.folder / "samples.jsonl").unlink()
    assert select(run).notes == ["samples.jsonl is missing: no sample is shown."]


def test_nothing_of_a_private_task_is_read(tmp_path):
    found = select(read_run(write_run(tmp_path / "run", summary(ARMS, private=True, steps=2))))
    assert found.samples == []
    assert found.seed is None


def test_prompts_are_shown_cut_and_a_damaged_file_of_them_is_told_of(run):
    prompts = {"item-0": "Say <b>a</b>.", "item-1": "x" * 2000, "item-2": None}
    path = run.folder / "items.json"
    path.write_text(json.dumps(prompts))
    found = select(run)
    assert [each.prompt for each in found.samples] == [
        "Say <b>a</b>.",
        "x" * PROMPT + " …",
        "",
    ]
    path.write_text("[1]")
    damaged = select(run)
    assert [each.prompt for each in damaged.samples] == ["", "", ""]
    assert damaged.notes == ["items.json is damaged: prompts are not shown."]
