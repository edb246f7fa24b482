"""Small multiples: a panel for each family, its arms in colour, all others in grey behind them.

All panels of a figure have the same axes, so that they can be read against each other. Plain
sampling stands in each as a dark line.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from esamp.evals.statistics import Interval
from esamp.report.arms import Label, Mark
from esamp.report.svg import LINE, Axis, Frame, drawing, mark, path, spread, tag, width_of

SIZE = (316.0, 222.0)
LONGEST = 15
"""Characters of a label within a panel."""

MOST_POINTS = 96
"""Points of a line that a panel shows."""

MOST_BANDS = 3
"""Intervals of a panel that can be told apart; with more lines none is drawn."""

FEW_POINTS = 12
"""Up to which each point of a line has a mark."""

Points = Sequence[tuple[float, Interval]]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One arm's line."""

    label: Label
    points: Points
    """x, and y with its interval; where y is None the line is broken."""


@dataclass(frozen=True, kw_only=True)
class End:
    """Where a line ends, in pixels, and what it is called."""

    x: float
    y: float
    name: str
    colour: str


def panels(
    name: str, title: str, axes: tuple[Axis, Axis], lines: Sequence[Line], marks: Mapping[str, Mark]
) -> list[Markup]:
    """Draw a panel for each family.

    Args:
        name: Unique on the page, for names within.
        title: What is shown.
        axes: x and y.
        lines: One for each arm; without any there are no panels.
        marks: Of the families.
    """
    lines = [_thinned(line) for line in lines if defined(line)]
    if not lines:
        return []
    plain = next((line for line in lines if line.label.vanilla and line.label.value == 1), None)
    families = list(dict.fromkeys(line.label.family for line in lines))
    sizes = Counter(line.label.family for line in lines)
    names = ["vanilla" if plain else ""]
    names += [line.label.short for line in lines if sizes[line.label.family] > 1]
    right = 10 + max(width_of(shortened(name)) for name in names)
    frame = Frame.of(SIZE, axes[0], axes[1], numbers(lines), right=right)
    behind = tag("g", *(_stroke(frame, line, "other") for line in lines), id=f"{name}-all")
    result = []
    for number, family in enumerate(families):
        own = sorted(
            (line for line in lines if line.label.family == family),
            key=lambda line: line.label.value or 0.0,
        )
        # The others are drawn once on the page, and shown again.
        others = behind if number == 0 else tag("use", href=f"#{name}-all")
        drawn = [others] if len(families) > 1 else []
        if plain is not None and plain not in own:
            drawn.append(_stroke(frame, plain, "plain line"))
        drawn += [
            draw(frame, line, marks[family], (place + 1) / len(own), len(own) <= MOST_BANDS)
            for place, line in enumerate(own)
        ]
        # A line that is alone is named by the heading.
        named = own if len(own) > 1 else []
        ends = [end_of(frame, line, line.label.short, marks[family].colour) for line in named]
        if plain is not None and plain not in own:
            ends.append(end_of(frame, plain, "vanilla", "plain"))
        drawn.append(name_ends(frame, ends))
        picture = drawing(
            frame, f"{name}-{number}", f"{title}: {family}", in_words(own, axes), *drawn
        )
        heading = tag("h5", legend_mark(marks[family]), " ", family)
        result.append(tag("div", heading, picture, class_="panel"))
    return result


def legend_mark(drawn: Mark) -> Markup:
    """Return a family's mark as a small picture."""
    shape = mark(drawn.shape, 7.0, 7.0, 4.5, class_=f"dot {drawn.colour}")
    return tag("svg", shape, viewBox="0 0 14 14", class_="key", aria_hidden="true")


def shortened(name: str) -> str:
    """Return a name that fits beside a line."""
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def numbers(lines: Sequence[Line]) -> tuple[list[float], list[float]]:
    """Return all x and all y of lines, bounds of intervals among them."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [
        value
        for line in lines
        for _, y in line.points
        for value in (y.value, y.low, y.high)
        if value is not None
    ]
    return xs, ys


def defined(line: Line) -> bool:
    """Whether there is anything to draw."""
    return any(y.value is not None for _, y in line.points)


def _thinned(line: Line) -> Line:
    """Leave out points evenly, but never the last."""
    every = -(-len(line.points) // MOST_POINTS)
    last = len(line.points) - 1
    kept = [point for place, point in enumerate(line.points) if (last - place) % every == 0]
    return Line(label=line.label, points=kept)


def _runs(points: Points) -> list[list[tuple[float, Interval]]]:
    """Return the stretches of points that are defined."""
    groups = groupby(points, key=lambda point: point[1].value is not None)
    return [list(group) for defined, group in groups if defined]


def _stroke(frame: Frame, line: Line, class_: str) -> Markup:
    data = "".join(
        path([(frame.x(x), frame.y(y.value)) for x, y in run if y.value is not None])
        for run in _runs(line.points)
    )
    return tag("path", tag("title", line.label.arm), d=data, class_=class_)


def draw(frame: Frame, line: Line, drawn: Mark, rank: float, band: bool) -> Markup:
    """Draw a line, its interval and, where they are few, its points.

    Args:
        frame: Of the plot.
        line: What is drawn.
        drawn: How.
        rank: Its place among its family, up to 1; the higher, the darker.
        band: Whether its interval is drawn.
    """
    strength = round(0.4 + 0.6 * rank, 2)
    parts = [_band(frame, run, drawn) for run in _runs(line.points)] if band else []
    inner = [_stroke(frame, line, f"line {drawn.colour}")]
    if len(line.points) <= FEW_POINTS:
        for x, y in line.points:
            if y.value is not None:
                tip = tag("title", f"{line.label.arm}: {say(frame, x, y)}")
                at = (frame.x(x), frame.y(y.value))
                inner.append(mark(drawn.shape, *at, 3.2, tip, class_=f"dot {drawn.colour}"))
    return tag("g", *parts, tag("g", *inner, opacity=None if strength == 1 else str(strength)))


def _band(frame: Frame, run: Points, drawn: Mark) -> Markup:
    bounds = [(x, y.low, y.high) for x, y in run if y.low is not None and y.high is not None]
    if not bounds:
        return Markup("")
    if len(bounds) == 1:
        x, low, high = bounds[0]
        ends = [(frame.x(x), frame.y(low)), (frame.x(x), frame.y(high))]
        return tag("path", d=path(ends), class_=f"whisker {drawn.colour}")
    there = [(frame.x(x), frame.y(high)) for x, _, high in bounds]
    back = [(frame.x(x), frame.y(low)) for x, low, _ in reversed(bounds)]
    return tag("path", d=path(there + back) + "Z", class_=f"band {drawn.colour}")


def name_ends(frame: Frame, ends: Sequence[End]) -> Markup:
    """Name lines where they end, apart from each other."""
    places = spread([end.y for end in ends], frame.y.end, frame.y.start - 6, LINE)
    return Markup("").join(
        tag("text", end.name, x=end.x + 6, y=at + 4, class_=f"label {end.colour}")
        for end, at in zip(ends, places, strict=True)
    )


def end_of(frame: Frame, line: Line, name: str, colour: str) -> End:
    """Return where a line ends, and its name there."""
    x, y = _runs(line.points)[-1][-1]
    assert y.value is not None
    return End(x=frame.x(x), y=frame.y(y.value), name=shortened(name), colour=colour)


def say(frame: Frame, x: float, y: Interval) -> str:
    """Say a point in words."""
    assert y.value is not None
    said = f"{frame.y_axis.show(y.value)} at {frame.x_axis.show(x)}"
    if y.low is not None and y.high is not None:
        said += f", interval {frame.y_axis.show(y.low)} to {frame.y_axis.show(y.high)}"
    return said


def in_words(own: Sequence[Line], axes: tuple[Axis, Axis]) -> str:
    """Say where lines begin and end."""
    x, y = axes
    sentences = [f"{y.title} against {x.title}."]
    for line in own:
        runs = _runs(line.points)
        (first_x, first), (last_x, last) = runs[0][0], runs[-1][-1]
        assert first.value is not None
        assert last.value is not None
        sentences.append(
            f"{line.label.arm}: {y.show(first.value)} at {x.show(first_x)}, "
            f"{y.show(last.value)} at {x.show(last_x)}."
        )
    return " ".join(sentences)
