import json

from evals.runs import files


def test_seeds_apart_and_merged_are_one_run(run, small_model, tmp_path):
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(f'{{"problem": "{a} + {a}?", "answer": "{2 * a}"}}\n' for a in (1, 2)))
    arguments = ["eval", "math500", "--data-file", str(data), "--samples", "3", "--embedder"]
    arguments += ["none", "--model", small_model, "--dtype", "float32"]
    arguments += ["--max-new-tokens", "8", "--arm", "vanilla", "--arm", "esamp(beta=0.5)"]
    for name, seeds in (("whole", "0,1"), ("first", "0"), ("second", "1")):
        code, _, stderr = run(*arguments, "--seeds", seeds, "--out", str(tmp_path / name))
        assert code == 0, stderr
    parts = [str(tmp_path / "first"), str(tmp_path / "second")]
    code, stdout, stderr = run("merge", *parts, "--out", str(tmp_path / "merged"))
    assert code == 0, stderr
    assert "math500, 2 items, 3 each" in stdout
    assert files(tmp_path / "merged") == files(tmp_path / "whole")
    code, stdout, _ = run("merge", *parts, "--out", str(tmp_path / "merged"), "--json")
    assert code == 0
    assert json.loads(stdout) == json.loads((tmp_path / "whole" / "summary.json").read_text())


def test_a_folder_that_is_no_run_is_refused(run, tmp_path):
    code, _, stderr = run("merge", str(tmp_path), "--out", str(tmp_path / "merged"))
    assert code == 2
    assert "is no run folder" in stderr
    assert not (tmp_path / "merged").exists()
