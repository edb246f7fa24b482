"""What a run shows, made from its intervals alone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from esamp.evals.statistics import Interval
from esamp.report.runs import Run
from esamp.report.tables import name_of, reader


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Arms by the side of no difference on which their whole interval lies."""

    title: str
    above: Sequence[str]
    below: Sequence[str]
    undecided: Sequence[str]
    undefined: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is shown, counted and in sentences."""

    sentences: Sequence[str] = ()
    tallies: Sequence[Tally] = ()


def verdict(run: Run) -> Verdict:
    """Return what a run shows against vanilla at the temperature that suits each arm."""
    answers: dict[str, dict[str, Interval]] = {}
    for each in sorted(run.comparisons, key=lambda each: each.k or 0):
        if each.k is not None:
            answers.setdefault(name_of(each.measure, each.k), {})[each.a] = each.difference
    if answers:
        tallies = [_tally(title, found, 0.0) for title, found in answers.items()]
        said = _sentences(tallies, "better than the best vanilla temperature", "worse", "k")
        return Verdict(sentences=said, tallies=tallies)
    lifts: dict[str, dict[str, Interval]] = {}
    for lift in run.frontier:
        title = f"{lift.embedder}, {reader(lift.scorer)}"
        lifts.setdefault(title, {})[lift.arm] = lift.lift
    tallies = [_tally(title, found, 1.0) for title, found in lifts.items()]
    said = _sentences(tallies, "above vanilla’s temperature curve", "below it", "reader")
    return Verdict(sentences=said, tallies=tallies)


def _tally(title: str, found: Mapping[str, Interval], none: float) -> Tally:
    sides: dict[int | None, list[str]] = {1: [], -1: [], 0: [], None: []}
    for arm, measure in found.items():
        sides[_side(measure, none)].append(arm)
    return Tally(
        title=title, above=sides[1], below=sides[-1], undecided=sides[0], undefined=sides[None]
    )


def _sentences(tallies: Sequence[Tally], above: str, below: str, by: str) -> list[str]:
    if all(not (each.above or each.below or each.undecided) for each in tallies):
        return []
    every = {"k": "at every k", "reader": "by every embedder and scorer"}[by]
    gain, some_gain = _always_and_once([each.above for each in tallies])
    loss, some_loss = _always_and_once([each.below for each in tallies])
    said = [f"Clearly {above} {every}: {_listed(gain)}."]
    if some_gain:
        said.append(f"Clearly {above}, but not {every}: {_listed(some_gain)}.")
    said.append(f"Clearly {below} {every}: {_listed(loss)}.")
    if some_loss:
        said.append(f"Clearly {below}, but not {every}: {_listed(some_loss)}.")
    return said


def _always_and_once(sides: Sequence[Sequence[str]]) -> tuple[list[str], list[str]]:
    """Return the arms that are on all sides given, and those on some only."""
    found = dict.fromkeys(arm for side in sides for arm in side)
    always = [arm for arm in found if all(arm in side for side in sides)]
    return always, [arm for arm in found if arm not in always]


def _listed(arms: Iterable[str]) -> str:
    return ", ".join(arms) or "no arm"


def _side(measure: Interval, none: float) -> int | None:
    """Return 1 where the whole interval is above, −1 where it is below, None without a value."""
    if measure.value is None:
        return None
    if measure.low is None or measure.high is None:
        return 0
    return (measure.low > none) - (measure.high < none)
