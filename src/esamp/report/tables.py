"""Tables of numbers with their intervals, and pictures of differences."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from esamp.evals.statistics import Interval
from esamp.report.arms import Label, Mark, label_arms, marks
from esamp.report.runs import Arm, Run
from esamp.report.svg import Scale, mark, path, tag

Show = Callable[[float], str]


def percent(value: float) -> str:
    """Write a share as per cent."""
    return f"{100 * value:.1f}"


def points(value: float) -> str:
    """Write a difference of shares in percentage points."""
    return signed(100 * value, 1)


def signed(value: float, digits: int) -> str:
    """Write a difference, with its sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def fixed(digits: int) -> Show:
    """Return how to write a number with so many digits after the point."""
    return lambda value: f"{value:.{digits}f}".replace("-", "−")


def significant(value: float) -> str:
    """Write a number with three digits that count."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A number as it is shown; empty where there is none."""

    value: str = ""
    interval: str = ""
    note: str = ""
    picture: Markup | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """An arm's line of a table."""

    name: str
    mark: Mark
    cells: Sequence[Cell]
    note: str = ""
    warns: bool = False
    """Whether the note limits what the row shows."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table."""

    title: str
    columns: Sequence[tuple[str, str]]
    """Titles and units."""
    rows: Sequence[Row]


def cell(measure: Interval, show: Show) -> Cell:
    """Return a measure as it is shown."""
    if measure.value is None:
        return Cell()
    bounds = ""
    if measure.low is not None and measure.high is not None:
        bounds = f"{show(measure.low)} to {show(measure.high)}"
    return Cell(value=show(measure.value), interval=bounds)


def of_mapping(name: str, *keys: object) -> Callable[[Arm], Interval]:
    """Return how to find a measure in an arm's mapping; undefined where it has none."""

    def find(arm: Arm) -> Interval:
        found = getattr(arm, name)
        for key in keys:
            found = found.get(key, {}) if isinstance(found, Mapping) else {}
        return found if isinstance(found, Interval) else Interval()

    return find


def keys_of(arms: Sequence[Arm], name: str) -> list[str]:
    """Return the keys of a mapping in any of the arms, in order of appearance."""
    return list(dict.fromkeys(key for arm in arms for key in getattr(arm, name)))


def reader(scorer: str) -> str:
    """Return how a scorer is named."""
    return "under the model itself" if scorer == "own" else f"under {scorer}"


def lift_grid(run: Run, labels: Mapping[str, Label], drawn: Mapping[str, Mark]) -> list[Grid]:
    """Return the table of lifts, arms against readers; [] where there is none."""
    readers = list(dict.fromkeys((each.embedder, each.scorer) for each in run.frontier))
    found = {(each.arm, each.embedder, each.scorer): each for each in run.frontier}
    if all(each.lift.value is None for each in run.frontier):
        return []
    scale = span([each.lift for each in run.frontier], 1.0)
    rows = []
    for arm in dict.fromkeys(each.arm for each in run.frontier):
        mark_of = drawn[labels[arm].family]
        here = [found.get((arm, *pair)) for pair in readers]
        cells = [
            pictured(each.lift, scale, 1.0, mark_of, fixed(2), "out of range")
            if each is not None
            else Cell()
            for each in here
        ]
        known = [each for each in here if each is not None]
        notes = {
            "length differs by more than 5\u00a0%": any(each.length_differs for each in known),
            "repeats itself": any(each.repeats for each in known),
        }
        note = ", ".join(name for name, flagged in notes.items() if flagged)
        rows.append(Row(name=arm, mark=mark_of, cells=cells, note=note, warns=True))
    columns = [(embedder, reader(scorer)) for embedder, scorer in readers]
    return [Grid(title="Lift: Vendi score over vanilla’s", columns=columns, rows=rows)]


def difference_grid(run: Run, labels: Mapping[str, Label], drawn: Mapping[str, Mark]) -> list[Grid]:
    """Return the table of paired differences, arms against measures; [] where there is none."""
    found = {(each.a, each.measure, each.k): each for each in run.comparisons}
    measures = sorted({(each.measure, each.k or 0) for each in run.comparisons})
    others = list(dict.fromkeys(each.b for each in run.comparisons))
    scales = {}
    for measure, k in measures:
        # Shares are drawn to one scale.
        alike = [
            each.difference
            for each in run.comparisons
            if (each.k is not None and k > 0) or each.measure == measure
        ]
        scales[measure, k] = span(alike, 0.0)
    rows = []
    for arm in dict.fromkeys(each.a for each in run.comparisons):
        mark_of = drawn[labels[arm].family]
        cells = []
        for measure, k in measures:
            each = found.get((arm, measure, k or None))
            show = points if k else fixed_signed(measure)
            if each is None:
                cells.append(Cell())
                continue
            shown = pictured(each.difference, scales[measure, k], 0.0, mark_of, show, "not defined")
            against = f"against {labels[each.b].short}" if len(others) > 1 else ""
            cells.append(replace(shown, note=against))
        rows.append(Row(name=arm, mark=mark_of, cells=cells))
    if not rows:
        return []
    columns = [
        (name_of(measure, k or None), "percentage points" if k else "") for measure, k in measures
    ]
    against = others[0] if len(others) == 1 else "the best vanilla temperature of each measure"
    return [Grid(title=f"Difference from {against}", columns=columns, rows=rows)]


def name_of(measure: str, k: int | None) -> str:
    """Return how a measure is written, such as pass@4."""
    return measure.replace(":", ", ") if k is None else measure.replace("_at_k", f"@{k}")


def fixed_signed(measure: str) -> Show:
    """Return how to write a difference in a measure."""
    digits = 2 if measure.startswith("vendi") else 3
    return lambda value: signed(value, digits)


def pictured(
    measure: Interval, scale: Scale, none: float, drawn: Mark, show: Show, absent: str
) -> Cell:
    """Return a number with a picture of its interval."""
    shown = cell(measure, show)
    if not shown.value:
        return Cell(value="none", interval=absent, picture=picture(measure, scale, none, drawn))
    return replace(shown, picture=picture(measure, scale, none, drawn))


def span(measures: Sequence[Interval], none: float) -> Scale:
    """Return the scale that pictures share, with "no difference" in its middle."""
    known = [each for m in measures for each in (m.value, m.low, m.high) if each is not None]
    reach = max((abs(each - none) for each in known), default=0.0) * 1.08 or 1.0
    return Scale(low=none - reach, high=none + reach, start=4.0, end=126.0)


def picture(measure: Interval, scale: Scale, none: float, drawn: Mark) -> Markup:
    """Draw a number and its interval beside the line of "no difference"."""
    middle = scale(none)
    parts = [tag("path", d=path([(middle, 0.0), (middle, 22.0)]), class_="base")]
    if measure.value is not None:
        if measure.low is not None and measure.high is not None:
            ends = [(scale(measure.low), 11.0), (scale(measure.high), 11.0)]
            clear = "sure" if not measure.low <= none <= measure.high else "unsure"
            parts.append(tag("path", d=path(ends), class_=f"span {clear} {drawn.colour}"))
        parts.append(
            mark(drawn.shape, scale(measure.value), 11.0, 4.6, class_=f"dot {drawn.colour}")
        )
    # The number stands beside it.
    return tag("svg", *parts, viewBox="0 0 130 22", class_="picture", aria_hidden="true")


def together(runs: Sequence[Run]) -> list[Grid]:
    """Return runs side by side: for each measure that two or more have, arms against runs."""
    columns: dict[str, tuple[str, Callable[[Arm], Interval], Show]] = {}
    for run in runs:
        for k in dict.fromkeys([*run.ks[:1], *run.ks[-1:]]):
            columns.setdefault(f"pass@{k}", ("%", of_mapping("pass_at_k", k), percent))
        for embedder in keys_of(run.arms, "vendi"):
            title = f"Vendi, {embedder}"
            columns.setdefault(title, ("", of_mapping("vendi", embedder), fixed(2)))
        for scorer in keys_of(run.arms, "perplexity"):
            title = f"Perplexity {reader(scorer)}"
            columns.setdefault(title, ("", of_mapping("perplexity", scorer), significant))
    names = list(dict.fromkeys(arm.name for run in runs for arm in run.arms))
    labels = label_arms(names)
    drawn = marks(labels)
    grids, places = [], range(len(runs))
    for title, (unit, of, show) in columns.items():
        found = {
            name: [
                next((of(arm) for arm in run.arms if arm.name == name), Interval()) for run in runs
            ]
            for name in names
        }
        having = [any(row[place].value is not None for row in found.values()) for place in places]
        if sum(having) > 1:
            rows = [
                Row(
                    name=name,
                    mark=drawn[labels[name].family],
                    cells=[cell(each, show) for each in found[name]],
                )
                for name in names
            ]
            heads = [(f"{place}. {run.task}", unit) for place, run in enumerate(runs, 1)]
            grids.append(Grid(title=title, columns=heads, rows=rows))
    return grids
