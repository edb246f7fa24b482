"""Every configuration under experiments/ is one that `esamp eval` takes."""

from pathlib import Path

import pytest

from esamp.cli.eval import merge, paper_of, read_config
from esamp.evals.arms import parse_arm
from esamp.evals.tasks import find_task

FOLDER = Path(__file__).parents[1] / "experiments"
CONFIGS = sorted(FOLDER.rglob("*.yaml"))
WITHOUT_NUMBERS = {"figure04-dynamics", "table19-writing"}
"""Of the paper: a drawing, and ranks by a judge."""


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_it_can_be_run(path):
    settings = merge(read_config(path), {})
    task = find_task(settings.task)
    arms = [parse_arm(text) for text in settings.arm]
    assert len({arm.name for arm in arms}) == len(arms)
    for arm in arms:
        assert settings.backend != "vllm" or arm.runs_on_vllm, arm.name
        assert arm.matched_to is None or arm.matched_to in {each.name for each in arms}
    paper = paper_of(settings, task)
    assert bool(paper) == (path.parent.name == "paper" and path.stem not in WITHOUT_NUMBERS)


def test_there_is_one_for_each_table_of_the_paper_that_can_be_measured():
    names = {path.name.split("-")[0] for path in (FOLDER / "paper").iterdir()}
    assert names == {
        *(f"table{number:02}" for number in (1, 2, 3, 4, 12, 13, 15, 16, 18, 19)), "figure04",
    }  # fmt: skip
