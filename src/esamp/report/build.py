"""Build the page: `build_report` from run folders to one HTML text."""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from esamp.errors import UsageError
from esamp.report.arms import Mark, label_arms, marks
from esamp.report.figures import Figure, Painter
from esamp.report.frontier import frontier
from esamp.report.lines import legend_mark
from esamp.report.results import results
from esamp.report.runs import Run, read_run
from esamp.report.samples import Selection, select
from esamp.report.tables import (
    Grid,
    difference_grid,
    keys_of,
    lift_grid,
    reader,
    together,
)
from esamp.report.verdict import Verdict, verdict


@dataclass(frozen=True, kw_only=True)
class Section:
    """One run as the page shows it."""

    name: str
    """Unique on the page."""
    run: Run
    shows: Verdict
    legend: Sequence[tuple[str, Markup]]
    """Families and their marks."""
    frontiers: Sequence[Figure]
    lifts: Sequence[Grid]
    tables: Sequence[Grid]
    pass_at_k: Sequence[Figure]
    differences: Sequence[Grid]
    sweeps: Sequence[Figure]
    dynamics: Sequence[Figure]
    learning: Sequence[Figure]
    samples: Selection
    marks: dict[str, Mark]
    """By arm."""
    settings: str
    environment: str

    @property
    def notes(self) -> list[str]:
        """What is missing or damaged."""
        return [*self.run.notes, *self.samples.notes]

    @property
    def contents(self) -> list[tuple[str, str]]:
        """Places of the page and their titles."""
        answers = "Right answers" if self.pass_at_k else "Differences"
        first = {"passk": (answers, self.pass_at_k or self.differences)}
        second = {"frontier": ("Frontier", self.frontiers or self.lifts)}
        parts: dict[str, tuple[str, object]] = {
            **(first | second if self.pass_at_k else second | first),
            "results": ("Results", self.tables),
            "sweeps": ("Sweeps", self.sweeps),
            "dynamics": ("Dynamics", self.dynamics),
            "learning": ("Distiller", self.learning),
            "samples": ("Samples", True),
            "settings": ("Settings", True),
        }
        return [(f"{self.name}-{part}", title) for part, (title, there) in parts.items() if there]


def build_report(folders: Sequence[Path]) -> str:
    """Return one self-contained page about runs; the same folders give the same bytes.

    Args:
        folders: What `esamp eval --out` made; each run complete.

    Raises:
        UsageError: A folder cannot be used, or there is none.
    """
    if not folders:
        raise UsageError("there is no run to report on: give one or more run folders")
    runs = [read_run(folder) for folder in folders]
    sections = [_section(f"run{place}", run) for place, run in enumerate(runs, 1)]
    here = files("esamp.report")
    style = here.joinpath("style.css").read_text(encoding="utf-8")
    page = here.joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = environment.from_string(page).render(
        sections=sections,
        together=together(runs) if len(runs) > 1 else [],
        style=Markup(style),
        policy=_policy(style),
        version=version("esamp"),
        legend_mark=legend_mark,
        breakable=breakable,
    )
    # Samples may hold halves of characters, which no file can.
    return text.lstrip().encode("utf-8", "replace").decode()


def breakable(name: str) -> Markup:
    """Return an arm's name that may go on in another line where its settings begin."""
    parts = re.split(r"(?<=[(=])", name)
    return Markup("<wbr>").join(parts)


def _policy(style: str) -> str:
    """Return the content security policy: nothing but our own style sheet."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def _section(name: str, run: Run) -> Section:
    labels = label_arms([arm.name for arm in run.arms])
    drawn = marks(labels)
    painter = Painter(run=run, labels=labels, marks=drawn, prefix=name)
    pairs = [
        (embedder, scorer)
        for embedder in keys_of(run.arms, "vendi")
        for scorer in keys_of(run.arms, "perplexity")
    ]
    frontiers = []
    for place, readers in enumerate(pairs):
        picture = frontier(f"{name}-frontier{place}", run.arms, readers, labels, drawn)
        if picture is not None:
            title = f"{readers[0]}, {reader(readers[1])}"
            frontiers.append(Figure(title=title, caption="", panels=[picture]))
    return Section(
        name=name,
        run=run,
        shows=verdict(run),
        legend=[(family, legend_mark(each)) for family, each in drawn.items()],
        frontiers=frontiers,
        lifts=lift_grid(run, labels, drawn),
        tables=results(run, labels, drawn),
        pass_at_k=painter.pass_at_k(),
        differences=difference_grid(run, labels, drawn),
        sweeps=painter.sweeps(),
        dynamics=painter.dynamics(),
        learning=painter.learning(),
        samples=select(run),
        marks={arm: drawn[label.family] for arm, label in labels.items()},
        settings=_json({**run.config.to_json(), "items": f"{run.items} items"}),
        environment=_json(run.environment),
    )


def _json(data: Any) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False)
