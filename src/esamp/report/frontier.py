"""The frontier: diversity against perplexity, vanilla's temperatures as a line, arms as points."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from esamp.evals.statistics import Interval
from esamp.report.arms import Label, Mark, sweeps
from esamp.report.runs import Arm
from esamp.report.svg import LINE, Axis, Frame, drawing, mark, path, tag, width_of

SIZES = {"wide": (680.0, 460.0), "narrow": (334.0, 380.0)}
"""One of the two is shown, by the width of the window."""

RADIUS = 4.6
DIRECTIONS = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1))
RINGS = (9.0, 18.0, 30.0, 46.0)
"""How far from its point a label may be."""

FARTHER = 6.0
"""What a ring costs, in pixels covered."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """An arm's place."""

    label: Label
    x: Interval
    """Perplexity; drawn by its logarithm."""
    y: Interval
    """Vendi score."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle, in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "Box") -> float:
        """Return the area that both have."""
        across = min(self.right, other.right) - max(self.left, other.left)
        down = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(across, 0.0) * max(down, 0.0)


def frontier(
    name: str,
    arms: Sequence[Arm],
    readers: tuple[str, str],
    labels: Mapping[str, Label],
    marks: Mapping[str, Mark],
) -> Markup | None:
    """Draw the frontier for an embedder and a scorer; None where fewer than two arms have both.

    Args:
        name: Unique on the page, for names within.
        arms: Of the run.
        readers: Embedder and scorer.
        labels: Of the arms.
        marks: Of the families.
    """
    embedder, scorer = readers
    points = [
        Point(label=labels[arm.name], x=arm.perplexity[scorer], y=arm.vendi[embedder])
        for arm in arms
        if _defined(arm.perplexity.get(scorer)) and _defined(arm.vendi.get(embedder))
    ]
    if len(points) < 2:
        return None
    drawings = [
        tag("div", _draw(f"{name}-{size}", size, readers, points, marks), class_=f"only-{size}")
        for size in SIZES
    ]
    return Markup("").join(drawings)


def _defined(measure: Interval | None) -> bool:
    return measure is not None and measure.value is not None and measure.value > 0


def _draw(
    name: str,
    size: str,
    readers: tuple[str, str],
    points: Sequence[Point],
    marks: Mapping[str, Mark],
) -> Markup:
    embedder, scorer = readers
    under = "the model itself" if scorer == "own" else scorer
    x = Axis(title=f"perplexity under {under}, log scale (lower: likelier text)", log=True)
    if size == "narrow":
        x = Axis(title="perplexity, log scale", log=True)
    y = Axis(title="Vendi score (effective number of different samples)")
    frame = Frame.of(SIZES[size], x, y, (_spans(points, "x"), _spans(points, "y")), right=16.0)
    places = {point.label.arm: _place(frame, point) for point in points}
    curve = sorted((point for point in points if point.label.vanilla), key=lambda p: _value(p.x))
    parts = [
        tag("text", "↖ better", x=frame.x.start + 8, y=frame.y.end + 14, class_="hint"),
        _curve(frame, curve),
        *_sweeps(points, places, marks),
        *(_whiskers(frame, point, marks) for point in points),
    ]
    for point in points:
        drawn = marks[point.label.family]
        tip = tag("title", _say(point))
        place = places[point.label.arm]
        parts.append(mark(drawn.shape, *place, RADIUS, tip, class_=f"dot {drawn.colour}"))
    line = [places[point.label.arm] for point in curve]
    parts.append(_labels(frame, points, places, line, marks))
    title = f"Frontier: diversity by {embedder} against perplexity under {under}"
    return drawing(frame, name, title, " ".join(_say(point) + "." for point in points), *parts)


def _value(measure: Interval) -> float:
    assert measure.value is not None
    return measure.value


def _spans(points: Sequence[Point], axis: str) -> list[float]:
    measures = [getattr(point, axis) for point in points]
    found = [each for m in measures for each in (m.value, m.low, m.high)]
    return [each for each in found if each is not None and each > 0]


def _place(frame: Frame, point: Point) -> tuple[float, float]:
    return frame.x(_value(point.x)), frame.y(_value(point.y))


def _say(point: Point) -> str:
    def span(measure: Interval) -> str:
        if measure.low is None or measure.high is None:
            return f"{measure.value:.3g}"
        return f"{measure.value:.3g} ({measure.low:.3g} to {measure.high:.3g})"

    return f"{point.label.arm}: Vendi {span(point.y)}, perplexity {span(point.x)}"


def _curve(frame: Frame, curve: Sequence[Point]) -> Markup:
    """Draw vanilla's temperatures as a line, within its interval."""
    if len(curve) < 2:
        return Markup("")
    parts = []
    bounds = [
        (_value(point.x), point.y.low, point.y.high)
        for point in curve
        if point.y.low is not None and point.y.high is not None
    ]
    if len(bounds) > 1:
        there = [(frame.x(x), frame.y(high)) for x, _, high in bounds]
        back = [(frame.x(x), frame.y(low)) for x, low, _ in reversed(bounds)]
        parts.append(tag("path", d=path(there + back) + "Z", class_="band plain"))
    line = [_place(frame, point) for point in curve]
    parts.append(tag("path", tag("title", "vanilla's temperatures"), d=path(line), class_="curve"))
    return tag("g", *parts)


def _sweeps(
    points: Sequence[Point], places: Mapping[str, tuple[float, float]], marks: Mapping[str, Mark]
) -> list[Markup]:
    """Join the arms of a family in the order of their parameter."""
    found = sweeps({point.label.arm: point.label for point in points if not point.label.vanilla})
    return [
        tag(
            "path",
            d=path([places[label.arm] for label in labels]),
            class_=f"sweep {marks[family].colour}",
        )
        for families in found.values()
        for family, labels in families.items()
    ]


def _whiskers(frame: Frame, point: Point, marks: Mapping[str, Mark]) -> Markup:
    x, y = _place(frame, point)
    lines = []
    if point.x.low and point.x.high:
        lines.append([(frame.x(point.x.low), y), (frame.x(point.x.high), y)])
    if point.y.low and point.y.high:
        lines.append([(x, frame.y(point.y.low)), (x, frame.y(point.y.high))])
    class_ = f"whisker {marks[point.label.family].colour}"
    return (
        tag("path", d="".join(path(line) for line in lines), class_=class_) if lines else Markup("")
    )


def _labels(
    frame: Frame,
    points: Sequence[Point],
    places: Mapping[str, tuple[float, float]],
    line: Sequence[tuple[float, float]],
    marks: Mapping[str, Mark],
) -> Markup:
    """Name the points, each name where it covers least; one that is moved away has a leader."""
    taken = [Box(left=x - 6, top=y - 6, right=x + 6, bottom=y + 6) for x, y in places.values()]
    taken += [Box(left=x - 2, top=y - 2, right=x + 2, bottom=y + 2) for x, y in _dots(line)]
    # "Better", in the corner.
    corner_x, corner_y = frame.x.start, frame.y.end
    taken.append(Box(left=corner_x, top=corner_y, right=corner_x + 64, bottom=corner_y + 20))
    parts = []
    for point in points:
        at = places[point.label.arm]
        short, drawn = point.label.short, marks[point.label.family]
        box, ring = _best_box(frame, at, width_of(short) + 3, taken)
        taken.append(box)
        if ring > 0:
            near = (min(max(at[0], box.left), box.right), min(max(at[1], box.top), box.bottom))
            parts.append(tag("path", d=path([at, near]), class_=f"leader {drawn.colour}"))
        parts.append(
            tag("text", short, x=box.left, y=box.bottom - 3, class_=f"label {drawn.colour}")
        )
    return Markup("").join(parts)


def _best_box(
    frame: Frame, at: tuple[float, float], width: float, taken: Sequence[Box]
) -> tuple[Box, int]:
    """Return the place of a label that covers least, and in which ring it lies."""
    best: tuple[float, Box, int] | None = None
    for ring, distance in enumerate(RINGS):
        if best is not None and best[0] <= FARTHER * ring:
            break
        for across, down in DIRECTIONS:
            left = at[0] + across * distance + (0, 0, -width)[across]
            left -= width / 2 if across == 0 else 0
            middle = at[1] + down * (distance + (2 if across == 0 else -2))
            box = Box(
                left=left, top=middle - LINE / 2, right=left + width, bottom=middle + LINE / 2
            )
            cost = sum(box.overlap(each) for each in taken)
            cost += FARTHER * ring + 1000 * _outside(frame, box)
            if best is None or cost < best[0]:
                best = cost, box, ring
    assert best is not None
    return best[1], best[2]


def _outside(frame: Frame, box: Box) -> bool:
    return (
        box.left < frame.x.start
        or box.right > frame.width
        or box.top < frame.y.end - 4
        or box.bottom > frame.y.start
    )


def _dots(line: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return points along a line, so that labels keep off it."""
    found = []
    for (x0, y0), (x1, y1) in pairwise(line):
        count = max(int(math.hypot(x1 - x0, y1 - y0) / 8), 1)
        found += [
            (x0 + (x1 - x0) * each / count, y0 + (y1 - y0) * each / count) for each in range(count)
        ]
    return found
