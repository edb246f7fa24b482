"""What experiments/publish.py writes of a run."""

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from report.fixtures import ARMS, EMBEDDERS, SCORERS, summary, write_run

sys.path.append(str(Path(__file__).parents[2] / "experiments"))

from publish import publish

from esamp.report.arms import label_arms, marks


@pytest.fixture(params=[False, True], ids=["open-ended", "verifiable"])
def run(request, tmp_path):
    data = summary(verifiable=request.param)
    folder = write_run(tmp_path / "run", data)
    publish(folder, tmp_path / "out")
    return request.param, data, tmp_path


def test_tables_name_every_arm_with_its_numbers(run):
    verifiable, data, folder = run
    text = (folder / "out" / "tables.md").read_text()
    assert all(f"| `{arm}`" in text for arm in ARMS)
    found = data["arms"][3]["pass_at_k"]["4"] if verifiable else data["arms"][3]["vendi"]
    number = found if verifiable else found[EMBEDDERS[0]]
    value = f"{100 * number['value']:.1f}" if verifiable else f"{number['value']:.2f}"
    assert f"{value}" in text
    assert all(len(line.split("|")) > 3 for line in text.splitlines() if line.startswith("| "))
    assert json.loads((folder / "out" / "summary.json").read_text()) == data


def test_drawings_stand_alone(run):
    _, _, folder = run
    drawings = sorted((folder / "out").glob("*.svg"))
    assert len(drawings) == len(EMBEDDERS) * len(SCORERS)
    for path in drawings:
        root = ElementTree.fromstring(path.read_text())
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        families = marks(label_arms(ARMS))
        dots = [each for each in root.iter() if "dot" in each.get("class", "").split()]
        assert len(dots) == len(ARMS) + len(families)
        assert set(families) <= {each.text for each in root.iter()}
