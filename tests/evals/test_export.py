import pytest

from esamp.errors import EsampError
from esamp.evals import export
from esamp.evals.export import export_parquet
from esamp.evals.folder import RunFolder
from evals.runs import TEXTS, config, run_in, tools

parquet = pytest.importorskip("pyarrow.parquet")


@pytest.mark.parametrize("rows", [1, 10, 10_000])
def test_every_sample_is_a_row_with_its_grade(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(export, "ROWS", rows)
    run_in(tmp_path / "run")
    count = export_parquet(RunFolder.existing(tmp_path / "run"), tmp_path / "out.parquet")
    table = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert count == len(table) == 3 * 2 * 3 * 4
    first = table[0]
    assert (first["arm"], first["seed"], first["item"], first["sample"]) == ("vanilla", 0, "a", 0)
    assert first["text"] == TEXTS["Say a."][0]
    assert (first["correct"], first["answer"], first["tokens"]) == (True, "a", 3)
    assert table[3]["text"].endswith("ünïcode 🙂")
    assert table[3]["correct"] is False
    assert [each.name for each in tmp_path.iterdir() if each.suffix == ".part"] == []


def test_without_grades_their_columns_are_empty(tmp_path):
    run_in(tmp_path / "run", config(verifiable=False), tools(grading=False))
    export_parquet(RunFolder.existing(tmp_path / "run"), tmp_path / "out.parquet")
    assert {row["correct"] for row in parquet.read_table(tmp_path / "out.parquet").to_pylist()} == {
        None
    }


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    run_in(tmp_path / "run")
    with pytest.raises(EsampError, match="cannot be written"):
        export_parquet(RunFolder.existing(tmp_path / "run"), tmp_path / "no" / "out.parquet")
