"""Examples are run, and so is the demo; apart from test_docs.py, so that both run at a time."""

import importlib.util
import sys
from pathlib import Path

import pytest

from shell import execute

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.model
def test_make_demo_shows_both_sides_and_their_diversity():
    shown = execute(["make", "-C", str(ROOT), "demo"])
    assert shown.count("Vendi score") == 2
    assert all(f" {number} " in shown for number in range(1, 9))


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
