"""A run as a Parquet table, one row a sample, for whoever analyses it with other tools."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from esamp.errors import MissingDependencyError
from esamp.evals.folder import RunFolder, disk_error, key_of
from esamp.evals.records import GroupRecord

ROWS = 1024
"""Rows of a row group, at least: a run need not fit into memory."""


def export_parquet(folder: RunFolder, path: Path) -> int:
    """Write all samples of a run, with their grades where there are any; return how many.

    Columns: arm, seed, item, sample, text, finish_reason, tokens, logprob, reference_logprob,
    novelty (list), correct, answer, note.

    Raises:
        MissingDependencyError: pyarrow is not installed.
        UsageError: The run's files are damaged.
        EsampError: The file cannot be written.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependencyError("Parquet needs pyarrow: pip install 'esamp[eval]'") from error
    schema = arrow.schema(
        [
            ("arm", arrow.string()),
            ("seed", arrow.int64()),
            ("item", arrow.string()),
            ("sample", arrow.int32()),
            ("text", arrow.string()),
            ("finish_reason", arrow.string()),
            ("tokens", arrow.int32()),
            ("logprob", arrow.float64()),
            ("reference_logprob", arrow.float64()),
            ("novelty", arrow.list_(arrow.float32())),
            ("correct", arrow.bool_()),
            ("answer", arrow.string()),
            ("note", arrow.string()),
        ]
    )
    draft, count = path.with_name(f".{path.name}.part"), 0
    try:
        with parquet.ParquetWriter(draft, schema) as writer:
            for rows in _batches(folder):
                writer.write_table(arrow.Table.from_pylist(rows, schema=schema))
                count += len(rows)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise disk_error(path, error) from error
    return count


def _batches(folder: RunFolder) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    # Both logs are in the same order; grades may lag behind.
    for line, graded in zip_longest(folder.samples.lines(), folder.grades.lines()):
        grades = graded["grades"] if graded is not None and key_of(graded) == key_of(line) else []
        rows += _rows(GroupRecord.from_json(line), grades)
        if len(rows) >= ROWS:
            yield rows
            rows = []
    yield rows


def _rows(record: GroupRecord, grades: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for number, sample in enumerate(record.samples):
        yield {
            **record.key._asdict(),
            "sample": number,
            # Half a surrogate pair is no UTF-8, which Parquet holds.
            "text": sample.text.encode(errors="replace").decode(),
            "finish_reason": sample.finish_reason,
            "tokens": sample.tokens,
            "logprob": sample.logprob,
            "reference_logprob": sample.reference_logprob,
            "novelty": sample.novelty,
            **(grades[number] if grades else {}),
        }
