"""Rows from files and from the Hub; what is wrong with them is said in one sentence."""

import gzip
import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import datasets
import pytest

from esamp.errors import MissingDependencyError, UsageError
from esamp.evals.tasks import TASKS, find_task
from esamp.evals.tasks.source import HubSet, file_rows, hub_rows, read_rows

SET = HubSet(path="someone/some-set", split="train", config="small")
ROWS = [{"id": f"q{n}", "prompt": f"Prompt {n}?"} for n in range(5)]


def write(path, rows):
    path.write_text("\n".join(each if isinstance(each, str) else json.dumps(each) for each in rows))
    return path


def hub(monkeypatch, answer):
    """Put something in place of the Hub; returns the calls that it gets."""
    calls = []

    def load_dataset(*positional, **named):
        calls.append((positional, named))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_a_file_and_a_compressed_file_have_the_same_rows(tmp_path):
    plain = write(tmp_path / "a.jsonl", [*ROWS[:2], "", *ROWS[2:]])
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for path in (plain, packed):
        assert [row.values for row in file_rows(path, None)] == ROWS
        assert [row.values for row in file_rows(path, 2)] == ROWS[:2]
    assert file_rows(plain, None)[2].where.endswith("line 4")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b'{"prompt": "a"}\n{"prompt": ', "line 2 is not JSON"),
        (b'{"prompt": "a"}\n["a"]', "line 2 holds a list"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"[" * 100_000, "line 1 is not JSON"),
    ],
)
def test_a_file_that_is_none(tmp_path, content, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        file_rows(path, None)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        file_rows(tmp_path / "none.jsonl", None)
    with pytest.raises(UsageError, match="Is a directory"):
        file_rows(tmp_path, None)
    packed = tmp_path / "a.jsonl.gz"
    for content in (b"plain", gzip.compress(json.dumps(ROWS[0]).encode())[:-6]):
        packed.write_bytes(content)
        with pytest.raises(UsageError, match="cannot be read"):
            file_rows(packed, None)


@pytest.mark.parametrize("limit", [0, -1])
@pytest.mark.parametrize("name", ["open-ended", "gsm8k", "reasoning-gym:gcd"])
def test_a_limit_leaves_something(name, limit):
    with pytest.raises(UsageError, match=f"limit is {limit}: give 1 or more"):
        find_task(name).load(None, limit, 0)


def test_ids_are_unique(tmp_path):
    path = write(tmp_path / "a.jsonl", [ROWS[0], ROWS[1], ROWS[0]])
    with pytest.raises(UsageError, match="line 3: id 'q0' is there twice"):
        find_task("open-ended").load(path, None, 0)
    assert len(find_task("open-ended").load(path, 2, 0)) == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "a"}, "no column 'prompt'; the columns are 'question'"),
        ({}, "the columns are none"),
        ({"prompt": 3}, "column 'prompt' holds a int, expected text"),
        ({"prompt": " "}, "expected text that is not empty"),
        ({"prompt": ""}, "holds empty text"),
        ({"prompt": None}, "no column 'prompt'"),
    ],
)
def test_wrong_columns(tmp_path, row, message):
    path = write(tmp_path / "a.jsonl", [ROWS[0], row])
    with pytest.raises(UsageError, match=message) as caught:
        find_task("open-ended").load(path, None, 0)
    assert "line 2" in str(caught.value)


def test_the_hub_is_asked_for_set_configuration_and_split(monkeypatch):
    calls = hub(monkeypatch, datasets.Dataset.from_list(ROWS))
    assert [row.values for row in hub_rows(SET, 3)] == ROWS[:3]
    assert calls == [(("someone/some-set", "small"), {"split": "train", "streaming": False})]


def test_a_large_set_is_sampled_as_it_streams(monkeypatch):
    rows = [{"id": n} for n in range(50)]
    calls = hub(monkeypatch, datasets.Dataset.from_list(rows).to_iterable_dataset())
    sampled = [row.values["id"] for row in read_rows(replace(SET, sample=20), None)]
    assert calls[0][1]["streaming"]
    assert len(set(sampled)) == 20
    assert sampled != sorted(sampled)
    assert sampled[:5] == [row.values["id"] for row in read_rows(replace(SET, sample=20), 5)]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("no"), "cannot be reached; give --data-file"),
        (
            datasets.exceptions.DatasetNotFoundError("a gated dataset"),
            "gated: accept its terms.*hf auth",
        ),
        (OSError("403 Forbidden"), "gated: accept its terms"),
        (
            datasets.exceptions.DatasetNotFoundError("it is not there"),
            r"\(it is not there\).*--data-file",
        ),
        (
            RuntimeError("Dataset scripts are no longer supported"),
            "scripts are no longer.*--data-file",
        ),
        (ValueError("BuilderConfig\nsmall"), r"\(BuilderConfig\)"),
        (datasets.Dataset.from_list([]), "is empty"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(monkeypatch, error, message):
    hub(monkeypatch, error)
    with pytest.raises(UsageError, match=message) as caught:
        hub_rows(SET, None)
    assert "\n" not in str(caught.value)


def test_a_gated_set_that_is_not_found_is_one_without_a_login(monkeypatch):
    hub(
        monkeypatch, datasets.exceptions.DatasetNotFoundError("doesn't exist or cannot be accessed")
    )
    with pytest.raises(UsageError, match="Idavidrein/gpqa is gated"):
        find_task("gpqa-diamond").load(None, None, 0)


@pytest.mark.parametrize(
    "environment",
    [
        {"HF_HUB_OFFLINE": "1"},
        pytest.param({"HF_ENDPOINT": "http://127.0.0.1:9"}, marks=pytest.mark.slow),
    ],
)
def test_a_hub_that_cannot_be_reached_ends_in_one_sentence(tmp_path, environment):
    code = "from esamp.evals.tasks import find_task\nfind_task('gsm8k').load(None, None, 0)"
    environment = {**os.environ, **environment, "HF_HOME": str(tmp_path), "HF_TOKEN": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    last = done.stderr.strip().splitlines()[-1]
    assert re.fullmatch(
        r".*UsageError: .*openai/gsm8k.*cannot be reached; give --data-file.*", last
    )


def test_datasets_may_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'esamp\[eval\]'"):
        hub_rows(SET, None)


def test_every_set_is_named_as_users_load_it():
    """Ids, configurations and splits are an interface: nobody can read another one by mistake."""
    sets = {name: task.source for name, task in TASKS.items() if isinstance(task.source, HubSet)}
    assert {name: (each.path, each.config, each.split) for name, each in sets.items()} == {
        "aime24": ("HuggingFaceH4/aime_2024", None, "train"),
        "aime25": ("yentinglin/aime_2025", None, "train"),
        "gpqa-diamond": ("Idavidrein/gpqa", "gpqa_diamond", "train"),
        "livecodebench-v5": ("lighteval/code_generation_lite", "v5", "test"),
        "math500": ("HuggingFaceH4/MATH-500", None, "test"),
        "gsm8k": ("openai/gsm8k", "main", "test"),
        "humaneval": ("openai/openai_humaneval", None, "test"),
        "mbpp": ("google-research-datasets/mbpp", "full", "test"),
        "creative": ("incredible45/Gutenberg-BookCorpus-Cleaned-Data-English", None, "train"),
    }
