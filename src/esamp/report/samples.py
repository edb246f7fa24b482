"""A selection of samples, arms side by side, their novel stretches shaded.

Read as a stream: samples.jsonl may be far larger than memory, and only the few records that are
shown are ever parsed.
"""

import json
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from esamp.evals.records import GroupRecord, Key, SampleRecord
from esamp.report.runs import Run

ITEMS = 3
SAMPLES = 4
"""Of each arm and item."""

CHARACTERS = 900
"""Of a sample."""

PROMPT = 400
"""Characters of a prompt."""

QUANTILES = (0.6, 0.8, 0.95)
"""Where one shade ends and the next begins, among the arm's tokens that are shown."""

WINDOW = 3
"""Tokens averaged over, so that stretches are shaded and not single tokens."""

CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
"""Pictures of characters that a page cannot hold."""

HEAD = b', "batch": '
"""What follows the key in a record's line."""


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Text of one shade."""

    text: str
    shade: int
    """0 is none."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A sample as it is shown."""

    stretches: Sequence[Stretch]
    left_out: int
    """Characters after those shown."""
    ended: str
    """How it ended, and after how many tokens."""
    grade: str
    """What the grader said; empty if there is none."""
    correct: bool | None


@dataclass(frozen=True, kw_only=True)
class Group:
    """All that is shown of one arm and item."""

    arm: str
    samples: Sequence[Shown]
    left_out: int
    """Samples that are not shown."""


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """All that is shown of one item."""

    name: str
    prompt: str
    """What was asked, or its beginning; empty where the run does not say."""
    groups: Sequence[Group]
    """The arms in order."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is shown of a run."""

    seed: int | None
    samples: Sequence[Shelf]
    shaded: bool = False
    """Whether any arm has novelty."""
    notes: Sequence[str] = field(default=())


def select(run: Run) -> Selection:
    """Return the first items of the first seed; nothing of a private task.

    Damaged lines are left out and told of.
    """
    path = run.folder / "samples.jsonl"
    if run.private:
        return Selection(seed=None, samples=[])
    if not path.is_file():
        return Selection(
            seed=None, samples=[], notes=["samples.jsonl is missing: no sample is shown."]
        )
    seed, items = run.config.seeds[0], list(run.config.items[:ITEMS])
    wanted = {Key(arm.name, seed, item) for arm in run.arms for item in items}
    notes: list[str] = []
    records = {key: GroupRecord.from_json(line) for key, line in _find(path, wanted, notes)}
    grades = {
        key: line["grades"] for key, line in _find(run.folder / "grades.jsonl", wanted, notes)
    }
    absent = len(wanted) - len(records)
    if absent:
        notes.append(f"samples.jsonl lacks {absent} of the {len(wanted)} groups to be shown here.")
    shown: dict[str, list[Group]] = {item: [] for item in items}
    for arm in run.arms:
        of_arm = [records[key] for item in items if (key := Key(arm.name, seed, item)) in records]
        limits = _limits(of_arm)
        for record in of_arm:
            group = _group(record, grades.get(record.key), limits)
            shown[record.item].append(group)
    shaded = any(each.novelty for record in records.values() for each in record.samples)
    prompts = _prompts(run.folder / "items.json", notes)
    shelves = [
        Shelf(name=item, prompt=prompts.get(item, ""), groups=groups)
        for item, groups in shown.items()
        if groups
    ]
    return Selection(seed=seed, samples=shelves, shaded=shaded, notes=notes)


def _prompts(path: Path, notes: list[str]) -> dict[str, str]:
    """Return what the items ask, as far as it is shown."""
    if not path.is_file():
        return {}
    try:
        prompts = json.loads(path.read_text(encoding="utf-8"))
        return {item: _beginning(text) for item, text in prompts.items() if text is not None}
    except (ValueError, AttributeError, TypeError):
        notes.append(f"{path.name} is damaged: prompts are not shown.")
        return {}


def _beginning(text: str) -> str:
    clean = text.translate(CONTROLS)
    return clean if len(clean) <= PROMPT else f"{clean[:PROMPT]} …"


def _find(path: Path, wanted: set[Key], notes: list[str]) -> Iterator[tuple[Key, dict[str, Any]]]:
    """Yield the lines that are wanted, until all have been found."""
    if not path.is_file():
        return
    missing = set(wanted)
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not missing or not raw.endswith(b"\n"):
                break
            try:
                key = _key(raw)
                if key in missing:
                    yield key, json.loads(raw.decode("utf-8", "surrogatepass"))
                    missing.remove(key)
            except (ValueError, KeyError, TypeError):
                notes.append(f"Line {number} of {path.name} is damaged and left out.")
    if _torn(path):
        notes.append(f"The last line of {path.name} is torn and left out.")


def _key(raw: bytes) -> Key:
    """Return what a line is about, without reading the samples if they come last, as they do."""
    head, found, _ = raw.partition(HEAD)
    line = json.loads(head + b"}" if found else raw)
    return Key(line["arm"], line["seed"], line["item"])


def _torn(path: Path) -> bool:
    """Whether a file does not end with a whole line."""
    with path.open("rb") as file:
        if file.seek(0, 2) == 0:
            return False
        file.seek(-1, 2)
        return file.read(1) != b"\n"


def _group(
    record: GroupRecord, grades: Sequence[Mapping[str, Any]] | None, limits: Sequence[float]
) -> Group:
    judged = grades if grades is not None else [None] * len(record.samples)
    shown = [
        _show(sample, grade, limits)
        for sample, grade in zip(record.samples[:SAMPLES], judged, strict=False)
    ]
    return Group(arm=record.arm, samples=shown, left_out=len(record.samples) - len(shown))


def _show(sample: SampleRecord, grade: Mapping[str, Any] | None, limits: Sequence[float]) -> Shown:
    how = {"stop": "ended by itself", "length": "cut off"}.get(
        sample.finish_reason, sample.finish_reason
    )
    said, correct = "", None
    if grade is not None:
        correct = bool(grade["correct"])
        said = "right" if correct else "wrong"
        answer = grade["answer"] if grade["answer"] is not None else grade["note"]
        said += f": {answer}" if answer else ""
    return Shown(
        stretches=shade(sample, limits),
        left_out=max(len(sample.text) - CHARACTERS, 0),
        ended=f"{sample.tokens} tokens, {how}",
        grade=said,
        correct=correct,
    )


def shade(sample: SampleRecord, limits: Sequence[float]) -> list[Stretch]:
    """Return a sample's text in stretches of one shade, up to the most characters shown.

    Args:
        sample: The sample.
        limits: Novelty at which each shade begins, rising.
    """
    smooth = _smooth(sample.novelty or [])
    stretches: list[Stretch] = []
    start = 0
    for place, end in enumerate([*sample.ends, len(sample.text)]):
        value = smooth[place] if place < len(smooth) else None
        level = bisect(limits, value) if value is not None and limits else 0
        piece = sample.text[start : min(end, CHARACTERS)].translate(CONTROLS)
        start = max(start, end)
        if piece and stretches and stretches[-1].shade == level:
            stretches[-1] = Stretch(text=stretches[-1].text + piece, shade=level)
        elif piece:
            stretches.append(Stretch(text=piece, shade=level))
    return stretches


def _limits(records: Sequence[GroupRecord]) -> list[float]:
    known = sorted(
        value
        for record in records
        for sample in record.samples[:SAMPLES]
        for value in _smooth(sample.novelty or [])
        if value is not None
    )
    return [known[int(share * len(known))] for share in QUANTILES] if known else []


def _smooth(novelty: Sequence[float | None]) -> list[float | None]:
    """Average over the tokens around each; what has no novelty stays without."""
    half = WINDOW // 2
    result: list[float | None] = []
    for place, value in enumerate(novelty):
        around = novelty[max(place - half, 0) : place + half + 1]
        known = [each for each in around if each is not None]
        result.append(None if value is None else sum(known) / len(known))
    return result
