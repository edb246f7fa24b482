"""Rows of a data set: from the Hugging Face Hub, or from a local file with the same columns."""

import gzip
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from esamp.errors import MissingDependencyError, UsageError

IDS = ("id", "ID", "task_id", "question_id", "unique_id", "Record ID", "etextno")
"""Columns that name a row, in the sets that we read."""
SHUFFLE_BUFFER = 256
"""Rows that are held while a set too large to download is sampled."""


@dataclass(frozen=True, kw_only=True)
class HubSet:
    """Where a data set is on the Hub."""

    path: str
    split: str
    config: str | None = None
    gated: bool = False
    """Whether one has to log in and accept its terms."""
    sample: int | None = None
    """Take so many rows with seed 42 as they stream in, instead of downloading all."""


@dataclass(frozen=True)
class Row:
    """One row, and where it is, for complaints."""

    values: Mapping[str, Any]
    where: str
    number: int
    """Counted from 1."""

    @property
    def id(self) -> str:
        """What names the row: its own column, else its number."""
        for name in IDS:
            if self.values.get(name) is not None:
                return str(self.values[name])
        return str(self.number)

    def text(self, *names: str) -> str:
        """Return the text in the first of these columns that is there, which may not be empty."""
        value = self._take(names)
        if not isinstance(value, str) or not value.strip():
            raise self._wrong(names, value, "text that is not empty")
        return value

    def optional_text(self, *names: str) -> str:
        """Return the text in the first of these columns that is there, or nothing."""
        present = [name for name in names if self.values.get(name) is not None]
        value = self.values[present[0]] if present else ""
        if not isinstance(value, str):
            raise self._wrong(names, value, "text")
        return value

    def answer(self, *names: str) -> str:
        """Return an answer as text; a number is one too."""
        value = self._take(names)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self._wrong(names, value, "text or a number")
        if not str(value).strip():
            raise self._wrong(names, value, "text that is not empty")
        return str(value).strip()

    def texts(self, *names: str) -> list[str]:
        """Return a list of texts."""
        value = self._take(names)
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise self._wrong(names, value, "a list of texts")
        return list(value)

    def _take(self, names: tuple[str, ...]) -> Any:
        for name in names:
            if self.values.get(name) is not None:
                return self.values[name]
        there = ", ".join(map(repr, self.values)) or "none"
        wanted = " or ".join(map(repr, names))
        raise UsageError(f"{self.where}: there is no column {wanted}; the columns are {there}")

    def wrong(self, name: str, expected: str) -> UsageError:
        """Return an error about a column, without its value: the set may be private."""
        return self._wrong((name,), self.values.get(name), expected)

    def _wrong(self, names: tuple[str, ...], value: Any, expected: str) -> UsageError:
        name = next((each for each in names if each in self.values), names[0])
        kind = "empty text" if value == "" else f"a {type(value).__name__}"
        return UsageError(f"{self.where}: column {name!r} holds {kind}, expected {expected}")


def read_rows(source: HubSet | Path, limit: int | None) -> list[Row]:
    """Return the first rows of a data set.

    Raises:
        UsageError: It cannot be read, or is empty.
        MissingDependencyError: The Hub is wanted and `datasets` is not installed.
    """
    check_limit(limit)
    if isinstance(source, HubSet):
        return hub_rows(source, limit)
    return file_rows(source, limit)


def check_limit(limit: int | None) -> None:
    """Raise if a limit leaves nothing."""
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}: give 1 or more, or leave it out for all items")


def file_rows(path: Path, limit: int | None) -> list[Row]:
    """Return the first rows of a JSONL file, which may be compressed.

    Raises:
        UsageError: It cannot be read, is empty, or a line of it is no JSON object.
    """
    try:
        with _open(path) as file:
            rows = list(itertools.islice(_parse(path, file), limit))
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"data file {path} cannot be read ({why}): give a JSONL file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"data file {path} is not UTF-8 text: give a JSONL file") from error
    if not rows:
        raise UsageError(f"data file {path} is empty: give one JSON object a line")
    return rows


def _open(path: Path) -> TextIOWrapper:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")


def _parse(path: Path, lines: Iterable[str]) -> Iterator[Row]:
    number = 0
    for line_number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"data file {path}, line {line_number}"
        try:
            values = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UsageError(f"{where} is not JSON ({error}): give one object a line") from error
        if not isinstance(values, dict):
            raise UsageError(
                f"{where} holds a {type(values).__name__}: give one JSON object a line"
            )
        number += 1
        yield Row(values, where, number)


def hub_rows(hub: HubSet, limit: int | None) -> list[Row]:
    """Return the first rows of a set on the Hub.

    Raises:
        UsageError: It cannot be reached, or wants a login.
        MissingDependencyError: `datasets` is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError(
            "reading a data set from the Hub needs datasets: pip install 'esamp[eval]', or give "
            "--data-file"
        ) from error
    try:
        loaded = datasets.load_dataset(
            hub.path, hub.config, split=hub.split, streaming=hub.sample is not None
        )
        if hub.sample is not None:
            loaded = loaded.shuffle(seed=42, buffer_size=SHUFFLE_BUFFER).take(hub.sample)
        values = list(itertools.islice(loaded, limit))
    # What a missing network, account or set raises differs with the version of four libraries.
    except Exception as error:
        raise UsageError(_reason(hub, error)) from error
    if not values:
        raise UsageError(f"data set {hub.path} is empty: give --data-file")
    return [
        Row(each, f"data set {hub.path}, row {number}", number)
        for number, each in enumerate(values, start=1)
    ]


def _reason(hub: HubSet, error: Exception) -> str:
    """Return one sentence about a set that could not be read."""
    names = {kind.__name__ for kind in type(error).__mro__}
    said = str(error).lower()
    denied = any(
        word in said for word in ("gated", "401", "403", "authenticated", "ask for access")
    )
    if "GatedRepoError" in names or denied or (hub.gated and "DatasetNotFoundError" in names):
        return (
            f"data set {hub.path} is gated: accept its terms on its page on the Hub, log in with "
            "`hf auth login` (or set HF_TOKEN), or give --data-file"
        )
    if "ConnectionError" in names or "OfflineModeIsEnabled" in names:
        return (
            f"data set {hub.path}: the Hugging Face Hub cannot be reached; give --data-file, a "
            "JSONL file with the same columns"
        )
    first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return (
        f"data set {hub.path} cannot be read from the Hub ({first}): give --data-file, a JSONL "
        "file with the same columns"
    )
