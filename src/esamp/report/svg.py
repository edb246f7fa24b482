"""Small pure functions that draw: scales, axes, marks and labels as inline SVG.

Colours are classes of the style sheet, so that one drawing serves light and dark. Numbers are
rounded to tenths of a pixel: the same data give the same bytes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

CHARACTER = 6.6
"""Mean width of a character in the plots' font size, in pixels."""

LINE = 13.5
"""Height of a line of text, in pixels."""


def tag(name: str, *children: str, **attributes: object) -> Markup:
    """Return an element; children that are not markup yet are escaped, None is no attribute.

    An attribute's name is written with `_` for `-`, and may end in `_`.
    """
    given = Markup("").join(
        Markup(' {}="{}"').format(
            key.rstrip("_").replace("_", "-"), text(value) if isinstance(value, float) else value
        )
        for key, value in attributes.items()
        if value is not None
    )
    inside = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), given, inside)


def text(value: float) -> str:
    """Return a coordinate."""
    return f"{value:.1f}".removesuffix(".0")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """From numbers to pixels along one axis, evenly or by the logarithm."""

    low: float
    high: float
    start: float
    """Pixel of `low`."""
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high, here = self.low, self.high, value
        if self.log:
            low, high, here = math.log(low), math.log(high), math.log(here)
        return self.start + (self.end - self.start) * (here - low) / (high - low)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What an axis shows."""

    title: str
    """With the unit."""
    log: bool = False
    at: Sequence[float] | None = None
    """Where its ticks are; None: round numbers."""
    zero: bool = False
    """Whether it begins at 0."""
    show: Callable[[float], str] = "{:g}".format

    def scale(self, values: Sequence[float], start: float, end: float) -> Scale:
        """Return a scale that holds the values, with some room."""
        low, high = (min(values), max(values)) if values else (1.0, 2.0)
        if self.log:
            room = max((high / low) ** 0.06, 1.02)
            return Scale(low=low / room, high=high * room, start=start, end=end, log=True)
        if self.zero:
            low = min(low, 0.0)
        room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        # Where all is 0 or above, the axis does not go below.
        below = low if low == 0 and self.zero else low - room
        return Scale(low=below, high=high + room, start=start, end=end)

    def ticks(self, scale: Scale, count: int) -> list[float]:
        """Return about so many round numbers on the scale."""
        if self.at is not None:
            return [each for each in self.at if scale.low <= each <= scale.high]
        if self.log:
            return _log_ticks(scale.low, scale.high, count)
        step = _step((scale.high - scale.low) / count)
        first = math.ceil(scale.low / step - 1e-9)
        last = math.floor(scale.high / step + 1e-9)
        return [round(each * step, 10) + 0.0 for each in range(first, last + 1)]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The area of a plot, its scales and axes."""

    width: float
    height: float
    x: Scale
    y: Scale
    x_axis: Axis
    y_axis: Axis

    @classmethod
    def of(
        cls,
        size: tuple[float, float],
        x: Axis,
        y: Axis,
        values: tuple[Sequence[float], ...],
        right: float,
    ) -> "Frame":
        """Return the frame that holds the values.

        Args:
            size: Width and height.
            x: Axis.
            y: Axis; its title stands above it.
            values: Of x and of y.
            right: Room for labels.
        """
        width, height = size
        across = x.scale(values[0], 44.0, width - right)
        up = y.scale(values[1], height - 38.0, 26.0)
        return cls(width=width, height=height, x=across, y=up, x_axis=x, y_axis=y)

    def axes(self) -> Markup:
        """Return grid lines, ticks and titles."""
        parts = []
        left, right, bottom = self.x.start, self.x.end, self.y.start
        for tick in self.y_axis.ticks(self.y, max(3, round((bottom - self.y.end) / 42))):
            at = self.y(tick)
            parts.append(tag("path", class_="grid", d=path([(left, at), (right, at)])))
            label = self.y_axis.show(tick)
            parts.append(tag("text", label, x=left - 6, y=at + 4, class_="tick", text_anchor="end"))
        previous = -math.inf
        for tick in self.x_axis.ticks(self.x, max(3, round((right - left) / 70))):
            at, label = self.x(tick), self.x_axis.show(tick)
            if at - width_of(label) / 2 < previous + 6:
                continue
            previous = at + width_of(label) / 2
            parts.append(tag("path", class_="base", d=path([(at, bottom), (at, bottom + 4)])))
            parts.append(
                tag("text", label, x=at, y=bottom + 17, class_="tick", text_anchor="middle")
            )
        parts.append(tag("path", class_="base", d=path([(left, bottom), (right, bottom)])))
        parts.append(tag("text", self.y_axis.title, x=4.0, y=13.0, class_="axis"))
        title = self.x_axis.title
        # Under the axis, but never out of the drawing.
        at = min(right, max((left + right) / 2 + width_of(title) / 2, width_of(title) + 4))
        parts.append(tag("text", title, x=at, y=bottom + 33, class_="axis", text_anchor="end"))
        return Markup("").join(parts)


def drawing(frame: Frame, name: str, title: str, description: str, *parts: str) -> Markup:
    """Return a whole drawing that tells readers of the screen what it shows.

    Args:
        frame: Its axes are drawn.
        name: Unique on the page.
        title: In a few words.
        description: What the plot says, in words.
        parts: What is drawn on the axes.
    """
    return tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        tag("desc", description, id=f"{name}-desc"),
        frame.axes(),
        *parts,
        viewBox=f"0 0 {text(frame.width)} {text(frame.height)}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
    )


def path(points: Sequence[tuple[float, float]]) -> str:
    """Return the data of a line through points."""
    return "M" + "L".join(f"{text(x)} {text(y)}" for x, y in points)


def mark(shape: str, x: float, y: float, size: float, *children: str, class_: str) -> Markup:
    """Return a mark of about the same area whatever its shape; `size` is a circle's radius."""
    if shape == "circle":
        return tag("circle", *children, cx=x, cy=y, r=size, class_=class_)
    corners, turn, reach = {
        "square": (4, 45.0, 1.25),
        "triangle": (3, -90.0, 1.45),
        "diamond": (4, 0.0, 1.35),
        "wedge": (3, 90.0, 1.45),
        "hexagon": (6, 0.0, 1.15),
    }[shape]
    angles = [math.radians(turn + 360 / corners * each) for each in range(corners)]
    around = [(x + reach * size * math.cos(a), y + reach * size * math.sin(a)) for a in angles]
    return tag("path", *children, d=path(around) + "Z", class_=class_)


def width_of(label: str) -> float:
    """Return about how wide a label is, in pixels."""
    return CHARACTER * len(label)


def spread(wanted: Sequence[float], low: float, high: float, gap: float = LINE) -> list[float]:
    """Return places as near to those wanted as a gap between them allows, within [low, high].

    Where there is no room for all gaps, they shrink.
    """
    if not wanted:
        return []
    gap = min(gap, (high - low) / max(len(wanted) - 1, 1))
    order = sorted(range(len(wanted)), key=lambda each: wanted[each])
    placed: list[float] = []
    for each in order:
        least = placed[-1] + gap if placed else low
        placed.append(max(wanted[each], least))
    top = high
    for place in range(len(placed) - 1, -1, -1):
        placed[place] = min(placed[place], top)
        top = placed[place] - gap
    result = [0.0] * len(wanted)
    for place, each in enumerate(order):
        result[each] = placed[place]
    return result


def _step(least: float) -> float:
    """Return 1, 2 or 5 times a power of ten that is about as large."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(each * power for each in (1, 2, 5, 10) if each * power >= least * 0.75)


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [step * 10.0**power for power in powers for step in steps]
        inside = [each for each in found if low <= each <= high]
        if len(inside) >= min(count, 4):
            return inside
    even = Axis(title="")
    return even.ticks(Scale(low=low, high=high, start=0.0, end=1.0), 4)
