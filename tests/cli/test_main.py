import importlib.metadata
import subprocess
import sys

import pytest
import torch

from esamp.errors import UsageError
from tiny import tiny, tiny_tokenizer

ONE_LINE = {
    "empty prompt": (["generate", " "], 2, "prompt 1 is empty"),
    "no samples": (["generate", "x", "--samples", "0"], 2, "samples is 0"),
    "beta not a number": (["generate", "x", "--beta", "nan"], 2, "beta is nan"),
    "beta infinite": (["generate", "x", "--beta", "inf"], 2, "beta is inf"),
    "beta negative": (["generate", "x", "--beta", "-0.1"], 2, "beta is -0.1"),
    "beta bad for vanilla too": (
        ["generate", "x", "--method", "vanilla", "--beta", "-1"],
        2,
        "beta is -1",
    ),
    "temperature": (["generate", "x", "--temperature", "-1"], 2, "temperature is -1"),
    "top-p": (["generate", "x", "--top-p", "0"], 2, "top-p is 0"),
    "top-k": (["generate", "x", "--top-k", "-5"], 2, "top-k is -5"),
    "min-p": (["generate", "x", "--min-p", "2"], 2, "min-p is 2"),
    "tokens": (["generate", "x", "--max-new-tokens", "0"], 2, "max-new-tokens is 0"),
    "seed": (["generate", "x", "--seed", "-1"], 2, "seed is -1"),
    "dtype": (["generate", "x", "--dtype", "int4"], 2, "dtype is 'int4'"),
    "model": (["generate", "x", "--model", "./no-such-model"], 1, "model './no-such-model'"),
    "features": (["generate", "x", "--features", "-1"], 2, "features is -1: give 0 or more"),
    "tokens to learn from": (
        ["generate", "x", "--learn-tokens", "0"],
        2,
        "learn_tokens is 0: give 1 or more, or none",
    ),
    "features of what has none": (
        ["bench", "decode", "--distiller", "mean", "--features", "64"],
        2,
        "features is 64, and the distiller mean has none",
    ),
    "compare with itself": (
        ["generate", "x", "--method", "vanilla", "--compare"],
        2,
        "--compare sets a method beside vanilla",
    ),
    "compare one": (["generate", "x", "--samples", "1", "--compare"], 2, "samples is 1"),
    "rounds": (["bench", "decode", "--rounds", "0"], 2, "rounds is 0"),
    "bench tokens": (["bench", "decode", "--max-new-tokens", "1"], 2, "max-new-tokens is 1"),
}


@pytest.mark.parametrize("case", ONE_LINE, ids=list(ONE_LINE))
def test_bad_input_ends_in_one_line(run, case, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments, code, message = ONE_LINE[case]
    got, out, err = run(*arguments)
    assert got == code
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert last.startswith(f"error: {message}")
    assert "Traceback" not in err


@pytest.mark.parametrize("option", ["--method", "--distiller", "--truncation", "--backend"])
def test_an_unknown_choice_names_the_allowed_ones(run, option):
    code, _, err = run("generate", "x", option, "nonsense")
    assert code == 2
    assert "nonsense" in err
    assert "is not one of" in " ".join(err.split())


def test_the_version_is_the_installed_one(run):
    code, out, _ = run("--version")
    assert (code, out.split()) == (0, ["esamp", importlib.metadata.version("esamp")])


def test_debug_lets_the_traceback_through():
    from esamp.cli.main import main

    with pytest.raises(UsageError):
        main(["generate", "x", "--samples", "0", "--debug"])


def test_out_of_memory_says_what_to_lower(run, monkeypatch):
    from esamp.backends.transformers import generator

    def full(*args, **kwargs):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(generator.TransformersGenerator, "load", full)
    code, _, err = run("generate", "x")
    assert code == 1
    assert "out of memory: ask for fewer --samples" in err


def test_an_unexpected_error_is_not_dressed_up(monkeypatch):
    from esamp.backends.transformers import generator
    from esamp.cli.main import main

    def broken(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr(generator.TransformersGenerator, "load", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["generate", "x"])


def test_the_command_without_typer_says_what_to_install(tmp_path):
    (tmp_path / "typer.py").write_text("raise ImportError('no typer')\n")
    result = subprocess.run(
        [sys.executable, "-c", "import esamp.cli.main"],
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "pip install 'esamp[transformers]'" in result.stderr


def test_nan_weights_end_in_one_line(run, tmp_path):
    model = tiny("llama")
    model.model.layers[1].mlp.up_proj.weight.data.fill_(torch.nan)
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    code, out, err = run("generate", "x", "--model", str(tmp_path), "--max-new-tokens", "4")
    assert code == 1
    assert out == ""
    assert "not finite" in err
