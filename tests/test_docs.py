"""What the docs show is run, and what is not run says why."""

import re
import sys
from pathlib import Path

import pytest

from shell import execute

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


@pytest.mark.model
@pytest.mark.parametrize("block", blocks())
def test_tagged_blocks_run(block):
    language, _, tag = block["tag"].partition(" ")
    if tag != "run":
        pytest.skip(f"not run: {block['why']}")
    commands = {"python": [sys.executable, "-c"], "bash": ["bash", "-euc"]}
    assert execute([*commands[language], block["code"]]).strip()


@pytest.mark.parametrize("block", blocks())
def test_untagged_blocks_say_why(block):
    assert block["tag"].endswith(" run") or block["why"]
