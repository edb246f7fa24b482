"""What the docs show is run, and what is not run says why."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<why>.+?) -->\n)?```(?P<tag>[^\n]*)\n(?P<code>.*?)```", re.S
)


def blocks():
    return [
        pytest.param(match, id=f"{page.name}-{number}")
        for page in PAGES
        for number, match in enumerate(BLOCK.finditer(page.read_text()), start=1)
    ]


def execute(command):
    # The command `esamp` is installed beside the interpreter.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PATH": path}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.model
@pytest.mark.parametrize("block", blocks())
def test_tagged_blocks_run(block):
    language, _, tag = block["tag"].partition(" ")
    if tag != "run":
        pytest.skip(f"not run: {block['why']}")
    commands = {"python": [sys.executable, "-c"], "bash": ["bash", "-euc"]}
    assert execute([*commands[language], block["code"]]).strip()


@pytest.mark.slow
@pytest.mark.model
def test_make_demo_shows_both_sides_and_their_diversity():
    shown = execute(["make", "-C", str(ROOT), "demo"])
    assert shown.count("Vendi score") == 2
    assert all(f" {number} " in shown for number in range(1, 9))


@pytest.mark.parametrize("block", blocks())
def test_untagged_blocks_say_why(block):
    assert block["tag"].endswith(" run") or block["why"]


@pytest.mark.model
@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem
)
def test_examples_run(path):
    if "vllm" in path.stem and importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is NOT installed")
    assert execute([sys.executable, str(path)]).strip()


def test_no_example_is_longer_than_forty_lines():
    lengths = {
        path.name: len(path.read_text().splitlines()) for path in (ROOT / "examples").iterdir()
    }
    assert max(lengths.values()) <= 40, lengths
