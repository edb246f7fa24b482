"""What a run's summary is made of: the measures of all groups as tables of numbers, and no text.

A cell (arm, measure, seed, item) is two numbers, a sum and what it is divided by: 16 bytes, so
1,000 prompts × 3 seeds × 60 measures × 20 arms take 58 MB, however long the samples are.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from esamp.errors import UsageError
from esamp.evals.metrics import distinct_answers, maj_at_ks, pass_at_k
from esamp.evals.statistics import Cells

Line = Mapping[str, Any]
"""One line of measures.jsonl or grades.jsonl: arm, seed, item, and measures or grades."""

Measure = tuple[str, ...]
"""Name of a measure and what it depends on, such as ("vendi", embedder, order)."""

Reading = tuple[Measure, float, float]
"""A measure, its sum and what that is divided by."""

CURVES = ("novelty", "distiller_error")
"""Measures by position: only their mean over groups is kept."""


def ks_of(samples: int) -> list[int]:
    """Return the k of pass@k: powers of two, and all samples."""
    return [*(2**power for power in range(samples.bit_length()) if 2**power < samples), samples]


_VANILLA = re.compile(r"vanilla(\(temperature=[^,()]*\))?")


@dataclass(frozen=True, kw_only=True)
class ArmSettings:
    """One arm of a run."""

    name: str
    temperature: float

    @property
    def vanilla(self) -> bool:
        """Whether it is a point of the vanilla temperature curve; its name says so."""
        return _VANILLA.fullmatch(self.name) is not None


@dataclass(frozen=True, kw_only=True)
class SummarySettings:
    """What a summary needs of a run's configuration."""

    task: str
    model: str
    backend: str
    samples: int
    seeds: Sequence[int]
    items: Sequence[str]
    """Identifiers of all items, those that were not reached yet too."""
    arms: Sequence[ArmSettings]
    embedders: Sequence[str]
    scorers: Sequence[str]
    """Names of the scorers; `esamp.evals.scoring.OWN` is the model itself."""
    verifiable: bool
    """Whether samples can be right or wrong."""
    private: bool = False
    """Whether the items' text may not be shown in reports."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UsageError(f"samples is {self.samples}: give 1 or more")
        names = [arm.name for arm in self.arms]
        for what, values in (("seed", self.seeds), ("item", self.items), ("arm", names)):
            if not values:
                raise UsageError(f"there is no {what}: give at least one")
            if len(set(values)) < len(values):
                raise UsageError(f"one {what} is there twice: give each {what} once")

    @property
    def ks(self) -> list[int]:
        """The k of pass@k."""
        return ks_of(self.samples)

    @property
    def curve(self) -> list[str]:
        """Names of the vanilla arms."""
        return [arm.name for arm in self.arms if arm.vanilla]

    @property
    def plain(self) -> str | None:
        """Name of the arm that samples plainly at temperature 1; None if there is none."""
        plain = [arm.name for arm in self.arms if arm.vanilla and arm.temperature == 1]
        return plain[0] if plain else None

    @property
    def others(self) -> list[str]:
        """Names of the arms that are not vanilla."""
        return [arm.name for arm in self.arms if not arm.vanilla]


@dataclass
class _Curve:
    """A running mean by position."""

    total: list[float] = field(default_factory=list)
    count: list[int] = field(default_factory=list)

    def add(self, values: Sequence[float | None]) -> None:
        missing = len(values) - len(self.total)
        self.total += [0.0] * missing
        self.count += [0] * missing
        for position, value in enumerate(values):
            if value is not None:
                self.total[position] += value
                self.count[position] += 1

    def mean(self) -> list[float | None] | None:
        # Rounded, so that the order in which groups came does not show.
        means = [
            round(total / count, 4) if count else None
            for total, count in zip(self.total, self.count, strict=True)
        ]
        return means if any(self.count) else None


class Table:
    """Measures of a run, arm by arm, filled line by line."""

    def __init__(self, arms: Sequence[str], seeds: Sequence[int], items: Sequence[str]) -> None:
        self.answered = False
        """Whether any sample has a final answer; where none has, there is nothing to vote on."""
        self._seeds = {seed: place for place, seed in enumerate(seeds)}
        self._items = {item: place for place, item in enumerate(items)}
        self._cells: dict[str, dict[Measure, Cells]] = {arm: {} for arm in arms}
        self._curves = {arm: {name: _Curve() for name in CURVES} for arm in arms}
        self._seen: dict[str, dict[str, np.ndarray]] = {
            kind: {arm: np.zeros(self.shape, dtype=bool) for arm in arms}
            for kind in ("measures", "grades")
        }

    @property
    def shape(self) -> tuple[int, int]:
        """Number of seeds and of items."""
        return len(self._seeds), len(self._items)

    def add_measures(self, lines: Iterable[Line]) -> None:
        """Take in lines of measures.jsonl, in any order.

        Raises:
            UsageError: A line is of an arm, seed or item that the run does not have, or comes
                twice.
        """
        for line in lines:
            self._put(line, "measures", readings(line["measures"]))
            for name, curve in self._curves[line["arm"]].items():
                curve.add(line["measures"][name] or [])

    def add_grades(self, lines: Iterable[Line], ks: Sequence[int]) -> None:
        """Take in lines of grades.jsonl; see `add_measures`."""
        for line in lines:
            self._put(line, "grades", verdicts(line["grades"], ks))
            self.answered |= any(grade["answer"] is not None for grade in line["grades"])

    def cells(self, arm: str, measure: Measure) -> Cells:
        """Return all cells of a measure; none is defined where it was not measured."""
        found = self._cells[arm].get(measure)
        return self._empty() if found is None else found

    def measures(self, arm: str) -> list[Measure]:
        """Return what was measured of an arm, in the order of first appearance."""
        return list(self._cells[arm])

    def curve(self, arm: str, name: str) -> list[float | None] | None:
        """Return the mean over groups by position; None if nothing was measured."""
        return self._curves[arm][name].mean()

    def found(self, arm: str, kind: str = "measures") -> int:
        """Return how many of the arm's groups have been measured, or graded."""
        return int(self._seen[kind][arm].sum())

    def _put(self, line: Line, kind: str, values: Iterator[Reading]) -> None:
        arm, place = line["arm"], self._place(line, kind)
        for measure, above, below in values:
            if measure not in self._cells[arm]:
                self._cells[arm][measure] = self._empty()
            cells = self._cells[arm][measure]
            cells.above[place], cells.below[place] = above, below
        self._seen[kind][arm][place] = True

    def _place(self, line: Line, kind: str) -> tuple[int, int]:
        arm, seed, item = line["arm"], line["seed"], line["item"]
        if arm not in self._cells or seed not in self._seeds or item not in self._items:
            raise UsageError(
                f"the {kind} of arm {arm!r}, seed {seed}, item {item!r} belong to no group of this "
                "run: its folder mixes two configurations; start in a new one"
            )
        place = self._seeds[seed], self._items[item]
        if self._seen[kind][arm][place]:
            raise UsageError(
                f"the {kind} of arm {arm!r}, seed {seed}, item {item!r} come twice: remove one line"
            )
        return place

    def _empty(self) -> Cells:
        return Cells(above=np.zeros(self.shape), below=np.zeros(self.shape))


def readings(measures: Mapping[str, Any]) -> Iterator[Reading]:
    """Yield what a group's measures say, leaving out what is undefined."""
    tokens, samples, logprob = measures["tokens"], measures["samples"], measures["logprob"]
    yield ("tokens_per_sample",), tokens, samples
    yield ("finished",), measures["finished"], samples
    if tokens and logprob is not None:
        yield ("entropy",), -logprob, tokens
        if measures["reference_logprob"] is not None:
            yield ("kl",), logprob - measures["reference_logprob"], tokens
    for scorer, (nll, scored) in measures["nll"].items():
        if scored:
            yield ("log_perplexity", scorer), nll, scored
    for embedder, cut in measures["cut"].items():
        if cut is not None:
            yield ("cut", embedder), cut, samples
    for name in ("vendi", "similarity", "dynamics", "distinct", "self_bleu"):
        for measure, value in _leaves((name,), measures[name]):
            yield measure, value, 1


def verdicts(grades: Sequence[Mapping[str, Any]], ks: Sequence[int]) -> Iterator[Reading]:
    """Yield what a group's grades say, leaving out what is undefined."""
    answers = [grade["answer"] for grade in grades]
    correct = [grade["correct"] for grade in grades]
    for k, majority in zip(ks, maj_at_ks(answers, correct, ks), strict=True):
        passed = pass_at_k(len(grades), sum(correct), k)
        if passed is not None:
            yield ("pass_at_k", str(k)), passed, 1
        if majority is not None:
            yield ("maj_at_k", str(k)), majority, 1
    yield ("distinct_answers",), distinct_answers(answers), 1


def _leaves(path: Measure, value: Any) -> Iterator[tuple[Measure, float]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves((*path, name), inner)
    elif value is not None:
        yield path, value
