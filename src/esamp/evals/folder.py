"""A run on disk: a folder of JSON files and of logs that only ever grow.

A log holds JSON lines in an order that the configuration fixes, so what is there is always a prefix
of what will be. Lines that belong together are written in one go and flushed to the disk. After a
kill at any moment the last lines may be torn or belong to a batch that is not whole: they are taken
off when the log is opened, and done again.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from esamp.errors import EsampError, UsageError
from esamp.evals.config import FORMAT, RunConfig
from esamp.evals.records import Key
from esamp.evals.task import Item

CALIBRATION = "calibration.json"
"""Temperatures of arms that are matched to others."""

ENVIRONMENT = "environment.json"
"""What a run runs on; the others that samples of it may be from stand within, in their order."""

LOCK = ".lock"
PATIENCE = 5.0
"""Seconds to wait for a lock: one that was killed may be ending still."""


class Log:
    """A file of JSON lines about (arm, seed, item), in a fixed order."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self, start: int = 0) -> Iterator[dict[str, Any]]:
        """Yield the lines that are there; a torn last one is left out.

        Args:
            start: How many to pass over, unread.

        Raises:
            UsageError: A line before the last one is no JSON object.
        """
        for line, _ in self._parsed(start):
            yield line

    def resume(self, batches: Sequence[Sequence[Key]]) -> int:
        """Take off what is not a whole batch, and return how many batches are there.

        Args:
            batches: Keys of all lines in order, batch by batch.

        Raises:
            UsageError: The log holds other lines than those.
        """
        if not self.path.exists():
            return 0
        done, end, ends = 0, 0, self._parsed()
        for batch in batches:
            for key in batch:
                found = next(ends, None)
                if found is None:
                    self._cut(end)
                    return done
                line, place = found
                if key_of(line) != key:
                    raise UsageError(
                        f"{self.path} has {key_of(line)} where {key} belongs: it is of another "
                        "run, or was changed; give another --out"
                    )
            done, end = done + 1, place
        if next(ends, None) is not None:
            raise UsageError(f"{self.path} has more lines than this run: give another --out")
        self._cut(end)
        return done

    def mend(self) -> None:
        """Take off a torn last line."""
        if self.path.exists():
            self._cut(max((end for _, end in self._parsed()), default=0))

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Write lines that belong together, one by one, and wait until the disk has them all.

        Raises:
            EsampError: The disk is full or cannot be written.
        """
        try:
            with self.path.open("ab") as file:
                for line in lines:
                    text = json.dumps(line, ensure_ascii=False, allow_nan=False)
                    file.write(f"{text}\n".encode("utf-8", "surrogatepass"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise disk_error(self.path, error) from error

    def _parsed(self, start: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield each line from that number on, and where it ends in the file."""
        if not self.path.exists():
            return
        place, broken = 0, None
        with self.path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if broken is not None:
                    raise UsageError(
                        f"{self.path}, line {broken} is broken, and it is not the last one: "
                        "restore the file, or give another --out"
                    )
                if number <= start:
                    place += len(raw)
                    continue
                line = _parse(raw)
                if line is None:
                    broken = number
                    continue
                place += len(raw)
                yield line, place

    def _cut(self, end: int) -> None:
        if self.path.stat().st_size == end:
            return
        try:
            with self.path.open("r+b") as file:
                file.truncate(end)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise disk_error(self.path, error) from error


def key_of(line: Mapping[str, Any]) -> Key:
    """Return what a line is about."""
    return Key(line["arm"], line["seed"], line["item"])


def _parse(raw: bytes) -> dict[str, Any] | None:
    """Return a line's object; None where it is torn or no object."""
    if not raw.endswith(b"\n"):
        return None
    try:
        line = json.loads(raw.decode("utf-8", "surrogatepass"))
    except ValueError:
        return None
    return line if isinstance(line, dict) and {"arm", "seed", "item"} <= line.keys() else None


class RunFolder:
    """The files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.samples = Log(path / "samples.jsonl")
        self.grades = Log(path / "grades.jsonl")
        self.measures = Log(path / "measures.jsonl")
        self.timings = Log(path / "timings.jsonl")

    def logs(self, config: RunConfig) -> Sequence[Log]:
        """Return the logs of a run that hold a line for each group."""
        grades = [self.grades] if config.verifiable else []
        return [self.samples, *grades, self.measures]

    @classmethod
    @contextmanager
    def open(cls, path: Path, config: RunConfig) -> Iterator["RunFolder"]:
        """Make the folder of a new run, or open that of the same run to go on.

        Arms and seeds may be other ones where what is done is the beginning of what is asked for.
        Within, it is ours alone: two that write to one log would ruin it. A new one may have a
        calibration.json in it, so that matched arms have the temperatures of another run.

        Raises:
            UsageError: It holds something else, or a run of another configuration; or another
                process writes to it.
            EsampError: It cannot be written.
        """
        folder = cls(path)
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is no folder: give another --out")
        if not folder.has("config.json"):
            if path.exists() and {each.name for each in path.iterdir()} - {CALIBRATION, LOCK}:
                raise UsageError(f"{path} is not empty and holds no run: give another --out")
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise disk_error(path, error) from error
        with _alone_in(path):
            folder._take(config)
            yield folder

    def _take(self, config: RunConfig) -> None:
        """Write the configuration, or see that it is that of the run that is there.

        A run that has no samples yet is none: it may have been stopped by a wrong name.
        """
        if self.has("config.json"):
            stored = self.read("config.json")
            different = config.differences(stored)
            if not different:
                return
            done = [key_of(line) for line in self.samples.lines()]
            begun = done or self.has(CALIBRATION)
            if begun and not config.goes_on_from(stored, done):
                raise UsageError(
                    f"{self.path} holds a run of another configuration ({'; '.join(different)}): "
                    "give another --out, or the same settings to go on"
                )
            # First, so that a run that is cut now is not taken for a complete one.
            (self.path / "summary.json").unlink(missing_ok=True)
        self.write("config.json", config.to_json())

    @classmethod
    def existing(cls, path: Path) -> "RunFolder":
        """Open the folder of a run to read it.

        Raises:
            UsageError: There is none, or one of another version.
        """
        folder = cls(path)
        if not folder.has("config.json"):
            raise UsageError(f"{path} is no run folder: give what `esamp eval --out` made")
        version = folder.read("config.json").get("format")
        if version != FORMAT:
            raise UsageError(
                f"{path} has format {version}, this esamp reads {FORMAT}: use the esamp it is from"
            )
        return folder

    def write_items(self, items: Sequence[Item], private: bool) -> None:
        """Write what reports show of the items: nothing but their names where they are private."""
        prompts = {item.id: None if private else item.prompt for item in items}
        self.write("items.json", prompts)

    def write_environment(self, now: Mapping[str, Any]) -> None:
        """Write what the run runs on, and keep what it has run on before."""
        others: list[Mapping[str, Any]] = []
        if self.has(ENVIRONMENT) and next(self.samples.lines(), None) is not None:
            last = self.read(ENVIRONMENT)
            earlier = last.pop("others", [])
            others = [each for each in (*earlier, last) if each != now]
        self.write(ENVIRONMENT, {**now, "others": others} if others else now)

    def config(self) -> RunConfig:
        """Return the stored configuration."""
        return RunConfig(**self.read("config.json"))

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return (self.path / name).is_file()

    def read(self, name: str) -> dict[str, Any]:
        """Read a JSON file.

        Raises:
            UsageError: It is no JSON object.
        """
        try:
            data = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.path / name} cannot be read: {error}") from error
        if not isinstance(data, dict):
            raise UsageError(f"{self.path / name} holds no JSON object: it is of another program")
        return data

    def write(self, name: str, data: Mapping[str, Any]) -> None:
        """Write a JSON file, whole or not at all.

        Raises:
            EsampError: The disk is full or cannot be written.
        """
        text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        draft = self.path / f"{name}.part"
        try:
            with draft.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path / name)
        except OSError as error:
            raise disk_error(self.path / name, error) from error


@contextmanager
def _alone_in(path: Path) -> Iterator[None]:
    """Keep other processes that write out of a folder."""
    lock = FileLock(path / LOCK, timeout=PATIENCE)
    try:
        lock.acquire()
    except Timeout as error:
        raise UsageError(
            f"{path} is being written by another process: wait for it, or give another --out"
        ) from error
    except OSError as error:
        raise disk_error(path / LOCK, error) from error
    try:
        yield
    finally:
        lock.release()


def disk_error(path: Path, error: OSError) -> EsampError:
    """Say that a file could not be written, and that nothing is lost."""
    return EsampError(
        f"{path} cannot be written ({error.strerror}): make room or give access, and run the same "
        "command again; it goes on from what is on disk"
    )
