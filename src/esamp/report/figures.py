"""From a run's measures to its figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from esamp.evals.statistics import Interval
from esamp.report.arms import Label, Mark, phrase, sweeps
from esamp.report.lines import (
    SIZE,
    Line,
    defined,
    draw,
    end_of,
    in_words,
    name_ends,
    numbers,
    panels,
    shortened,
)
from esamp.report.runs import Arm, Run
from esamp.report.svg import Axis, Frame, drawing, path, tag, width_of
from esamp.report.tables import fixed, keys_of, of_mapping, percent, reader


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Drawings that belong together."""

    title: str
    caption: str
    panels: Sequence[Markup]


@dataclass(frozen=True, kw_only=True)
class Painter:
    """What all figures of a run share."""

    run: Run
    labels: Mapping[str, Label]
    marks: Mapping[str, Mark]
    prefix: str
    """Of names on the page."""

    def pass_at_k(self) -> list[Figure]:
        """Draw pass@k against k."""
        x = Axis(title="k (samples drawn)", log=True, at=[float(k) for k in self.run.ks])
        y = Axis(title="pass@k (%)", zero=True, show=percent_whole)
        return self._of_arms(
            "passk", "pass@k", (x, y), lambda arm: list(arm.pass_at_k.items()),
            "Share of problems that at least one of k samples gets right, by the unbiased "
            "estimator. Bands are 95 % intervals.",
        )  # fmt: skip

    def dynamics(self) -> list[Figure]:
        """Draw the similarity of prefixes against their length, for each embedder."""
        figures = []
        for number, embedder in enumerate(keys_of(self.run.arms, "dynamics")):
            figures += self._of_arms(
                f"dynamics{number}",
                f"Similarity of prefixes, {embedder}",
                (Axis(title="tokens of each sample read"), Axis(title="mean pairwise cosine")),
                lambda arm, embedder=embedder: arm.dynamics.get(embedder, ()),  # type: ignore[misc]
                "How alike the samples of a prompt are when only their first tokens are read: "
                "lower is more different. Bands are 95 % intervals.",
            )
        return figures

    def learning(self) -> list[Figure]:
        """Draw what the distiller does not predict, over steps and over positions."""
        x = Axis(title="decode step")
        error = Axis(title="‖residual‖² / ‖deep‖²", zero=True)
        at = Axis(title="token position")
        novelty = Axis(title="‖residual‖ / ‖deep‖", zero=True)
        return [
            *self._of_arms(
                "error", "Distiller error", (x, error), lambda arm: _counted(arm.distiller_error),
                "Share of the deep state that the distiller does not predict: 1 is no better than "
                "predicting nothing. It falls where the distiller learns.",
            ),
            *self._of_arms(
                "novelty", "Novelty", (at, novelty), lambda arm: _counted(arm.novelty),
                "Length of what was not predicted, against the length of the deep state.",
            ),
        ]  # fmt: skip

    def sweeps(self) -> list[Figure]:
        """Draw measures against each parameter that is swept."""
        figures = []
        for number, (parameter, families) in enumerate(sweeps(self.labels).items()):
            drawn = [
                panel
                for place, measure in enumerate(self._measures())
                for panel in self._sweep(f"sweep{number}-{place}", parameter, families, measure)
            ]
            plain = "" if parameter == "temperature" else " The level line is vanilla at T 1."
            caption = (
                f"Measures against the {phrase(parameter)}, all else equal within a line. Bars are "
                f"95 % intervals.{plain}"
            )
            figures.append(Figure(title=f"By {phrase(parameter)}", caption=caption, panels=drawn))
        return [figure for figure in figures if figure.panels]

    def _of_arms(
        self,
        name: str,
        title: str,
        axes: tuple[Axis, Axis],
        points: Callable[[Arm], Sequence[tuple[float, Interval]]],
        caption: str,
    ) -> list[Figure]:
        lines = [
            Line(label=self.labels[arm.name], points=[(float(x), y) for x, y in points(arm)])
            for arm in self.run.arms
        ]
        drawn = panels(f"{self.prefix}-{name}", title, axes, lines, self.marks)
        if len(drawn) > 1:
            caption += " Grey: all other arms."
            if any(each.label.vanilla and each.label.value == 1 for each in lines):
                caption += " Dark: vanilla at temperature 1."
        return [Figure(title=title, caption=caption, panels=drawn)] if drawn else []

    def _measures(self) -> list[tuple[Axis, Callable[[Arm], Interval]]]:
        arms, ks = self.run.arms, self.run.ks
        found: list[tuple[Axis, Callable[[Arm], Interval]]] = [
            (Axis(title=f"pass@{k} (%)", show=percent_whole), of_mapping("pass_at_k", k))
            for k in dict.fromkeys([*ks[:1], *ks[-1:]])
        ]
        for embedder in keys_of(arms, "vendi"):
            found.append((Axis(title=f"Vendi score, {embedder}"), of_mapping("vendi", embedder)))
        for scorer in keys_of(arms, "perplexity"):
            title = f"perplexity {reader(scorer)}, log scale"
            found.append((Axis(title=title, log=True), of_mapping("perplexity", scorer)))
        length = Axis(title="tokens per sample", show=fixed(0))
        return [*found, (length, lambda arm: arm.tokens_per_sample)]

    def _sweep(
        self,
        name: str,
        parameter: str,
        families: Mapping[str, Sequence[Label]],
        measure: tuple[Axis, Callable[[Arm], Interval]],
    ) -> list[Markup]:
        """Draw one measure; [] where no arm has it."""
        y, of = measure
        values = {arm.name: of(arm) for arm in self.run.arms}
        lines = [
            Line(label=arms[0], points=[(arm.value or 0.0, values[arm.arm]) for arm in arms])
            for arms in families.values()
        ]
        lines = [line for line in lines if defined(line)]
        if not lines:
            return []
        xs, ys = numbers(lines)
        plain = self._plain(values) if parameter != "temperature" else None
        if plain is not None:
            ys.append(plain)
        names = [line.label.family for line in lines] + (["vanilla"] if plain is not None else [])
        x = Axis(title=phrase(parameter), at=sorted(set(xs)))
        right = 10 + max(width_of(shortened(_last(each))) for each in names)
        frame = Frame.of(SIZE, x, y, (xs, ys), right=right)
        parts = [
            _with_whiskers(frame, line, self.marks[line.label.family], place - (len(lines) - 1) / 2)
            for place, line in enumerate(lines)
        ]
        ends = [
            end_of(frame, line, _last(line.label.family), self.marks[line.label.family].colour)
            for line in lines
        ]
        if plain is not None:
            level = [(frame.x.start, frame.y(plain)), (frame.x.end, frame.y(plain))]
            parts.insert(0, tag("path", d=path(level), class_="plain line"))
            at_one = Line(label=lines[0].label, points=[(max(xs), Interval(value=plain))])
            ends.append(end_of(frame, at_one, "vanilla", "plain"))
        picture = drawing(
            frame,
            f"{self.prefix}-{name}",
            f"{y.title} against {phrase(parameter)}",
            in_words(lines, (x, y)),
            *parts,
            name_ends(frame, ends),
        )
        return [tag("div", picture, class_="panel")]

    def _plain(self, values: Mapping[str, Interval]) -> float | None:
        """Return the value of vanilla at temperature 1."""
        found = [
            values[label.arm].value
            for label in self.labels.values()
            if label.vanilla and label.value == 1
        ]
        return found[0] if found else None


def _with_whiskers(frame: Frame, line: Line, drawn: Mark, side: float) -> Markup:
    """Draw a line with an interval at each point, a little to one side of the others'."""
    shift = 3.0 * side
    whiskers = [
        path([(frame.x(x) + shift, frame.y(y.low)), (frame.x(x) + shift, frame.y(y.high))])
        for x, y in line.points
        if y.low is not None and y.high is not None
    ]
    shown = tag("path", d="".join(whiskers), class_=f"whisker strong {drawn.colour}")
    beside = tag("g", draw(frame, line, drawn, 1.0, False), transform=f"translate({shift:g} 0)")
    return tag("g", shown if whiskers else "", beside)


def percent_whole(value: float) -> str:
    """Write a share as per cent, with a digit after the point where it is needed."""
    return f"{float(percent(value)):g}"


def _counted(values: Sequence[float | None]) -> list[tuple[float, Interval]]:
    """Number values from 1."""
    return [(float(place), Interval(value=value)) for place, value in enumerate(values, 1)]


def _last(family: str) -> str:
    return family.rpartition(", ")[2]
