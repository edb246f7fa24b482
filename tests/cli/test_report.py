import importlib
import sys

import pytest

from esamp.cli.report import report
from esamp.errors import EsampError, MissingDependencyError, UsageError
from report.fixtures import summary, write_run


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path / "run", summary(["vanilla", "esamp"], steps=4))


def test_the_page_is_written_and_told_of(folder, tmp_path, capsys):
    out = tmp_path / "page.html"
    out.write_text("old")
    report([folder], out)
    assert out.read_text().startswith("<!doctype html>")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "wrote" in printed.err
    assert sorted(each.name for each in tmp_path.iterdir()) == ["page.html", "run"]


def test_a_run_that_cannot_be_used_leaves_the_old_page(folder, tmp_path):
    out = tmp_path / "page.html"
    out.write_text("old")
    (folder / "summary.json").unlink()
    with pytest.raises(UsageError, match="not complete"):
        report([folder], out)
    assert out.read_text() == "old"


def test_a_page_that_cannot_be_written(folder, tmp_path):
    with pytest.raises(UsageError, match="is a folder"):
        report([folder], tmp_path)
    with pytest.raises(EsampError, match="cannot be written"):
        report([folder], tmp_path / "missing" / "page.html")


def test_without_jinja2_it_says_what_to_install(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.delitem(sys.modules, "esamp.report.build", raising=False)
    with pytest.raises(MissingDependencyError, match="pip install"):
        report([folder], tmp_path / "page.html")
    monkeypatch.undo()
    importlib.import_module("esamp.report.build")
