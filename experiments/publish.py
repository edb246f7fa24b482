"""Tables and figures of a finished run, as files that a repository can hold.

    python experiments/publish.py runs/stories --out experiments/stories

Writes tables.md, frontier-N.svg for each embedder and scorer, and the run's summary.json. They are
those of `esamp report`; the whole page, with samples, is some megabytes.
"""

import argparse
import re
import shutil
from collections.abc import Iterator, Mapping
from importlib.resources import files
from itertools import product
from pathlib import Path

from esamp.report.arms import Mark, label_arms, marks
from esamp.report.frontier import frontier
from esamp.report.results import results
from esamp.report.runs import Run, read_run
from esamp.report.svg import LINE, mark, tag, width_of
from esamp.report.tables import Cell, Grid, difference_grid, keys_of, lift_grid

MARGIN = 12
"""Around a drawing, in its own units."""


def show(cell: Cell) -> str:
    """Return a number, its interval and its note as text."""
    interval = f" [{cell.interval.replace(' to ', ', ')}]" if cell.interval else ""
    return f"{cell.value}{interval}" or cell.note


def markdown(grid: Grid) -> str:
    """Return a table under a heading."""
    columns = ["arm", *(f"{title} {unit}".strip() for title, unit in grid.columns)]
    rows = [
        [f"`{row.name}`{f' ({row.note})' if row.note else ''}", *map(show, row.cells)]
        for row in grid.rows
    ]
    lines = [columns, ["---"] * len(columns), *rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"## {grid.title}\n\n{table}\n"


def alone(page: str, families: Mapping[str, Mark]) -> str:
    """Return the first drawing of a page's part as a file of its own.

    It has the page's style within, and below it the names of the families.
    """
    found = re.search(r"<svg(.*?)>(.*?)</svg>", page, re.DOTALL)
    assert found is not None, "a figure has a drawing"
    style = files("esamp.report").joinpath("style.css").read_text(encoding="utf-8")
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', found[1])
    assert size is not None, "a drawing has a size"
    width, height = float(size[1]), float(size[2])
    names, below = legend(families, width, height)
    box = f'viewBox="{-MARGIN} {-MARGIN} {width + 2 * MARGIN:g} {below + 2 * MARGIN:g}"'
    head = re.sub(r'viewBox="[^"]*"', box, found[1])
    # What the page gives its drawings by where they stand.
    ours = "svg { background: var(--card); font-family: system-ui, sans-serif; }"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg"{head}>'
        f"<style>{style}\n{ours}</style>{found[2]}{names}</svg>\n"
    )


def legend(families: Mapping[str, Mark], width: float, top: float) -> tuple[str, float]:
    """Return the families and their marks, line after line, and where they end."""
    parts, x, y = [], 0.0, top + LINE
    for family, drawn in families.items():
        room = width_of(family) + 3 * LINE
        if x > 0 and x + room > width:
            x, y = 0.0, y + LINE
        parts.append(mark(drawn.shape, x + 6, y - 4, 4.5, class_=f"dot {drawn.colour}"))
        parts.append(tag("text", family, x=x + LINE, y=y))
        x += room
    return "".join(parts), y


def figures(run: Run) -> Iterator[tuple[str, str]]:
    """Return each frontier's title and drawing."""
    labels = label_arms([arm.name for arm in run.arms])
    families = marks(labels)
    for pair in product(keys_of(run.arms, "vendi"), keys_of(run.arms, "perplexity")):
        picture = frontier("frontier", run.arms, pair, labels, families)
        if picture is not None:
            title = f"Vendi under {pair[0]}, perplexity under {pair[1]}"
            yield title, alone(str(picture), families)


def publish(folder: Path, out: Path) -> None:
    """Write the tables and figures of a run."""
    run = read_run(folder)
    labels = label_arms([arm.name for arm in run.arms])
    drawn = marks(labels)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "summary.json", out / "summary.json")
    grids = [grid(run, labels, drawn) for grid in (lift_grid, difference_grid, results)]
    parts = [f"# {run.config.task}, {run.items} items\n\nBrackets are 95 % intervals.\n"]
    for number, (title, drawing) in enumerate(figures(run), start=1):
        (out / f"frontier-{number}.svg").write_text(drawing, encoding="utf-8")
        parts.append(f"![{title}](frontier-{number}.svg)\n")
    parts += [markdown(grid) for some in grids for grid in some]
    parts += ["## What this run cannot conclude\n", *(f"- {each}" for each in run.cannot_conclude)]
    (out / "tables.md").write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")


def main() -> None:
    """Publish one run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    publish(options.run, options.out)


if __name__ == "__main__":
    main()
