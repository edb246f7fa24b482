"""What `esamp eval` shows at the end of a run: the main numbers, the paper's beside them."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from esamp.cli.console import talk, write_json
from esamp.evals.folder import RunFolder
from esamp.evals.paper import FILE as PAPER
from esamp.evals.paper import Numbers

Values = Mapping[str, Mapping[str, float | None] | None]

COLUMNS: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], Values]]] = {
    "pass@": ("pass@", lambda arm: arm["pass_at_k"] or {}),
    "vendi:": ("Vendi ", lambda arm: arm["vendi"]),
    "perplexity:": ("perplexity ", lambda arm: arm["perplexity"]),
    "": ("", lambda arm: {"entropy": arm["entropy"], "tokens": arm["tokens_per_sample"]}),
}
"""How a measure's name begins in paper.json and in the table, and an arm's values by the rest."""


def show(summary: Mapping[str, Any], folder: RunFolder, *, json: bool) -> None:
    """Print the summary of a run: its main numbers, or with `json` all of it."""
    if json:
        write_json(summary)
        return
    Console().print(table(summary, folder.read(PAPER) if folder.has(PAPER) else {}))
    talk.print(f"more: esamp report {folder.path}", markup=False)


def table(summary: Mapping[str, Any], paper: Numbers) -> Table:
    """Return the main numbers of a run, each with its 95 % interval."""
    result = Table(title=f"{summary['task']}, {summary['items']} items, {summary['samples']} each")
    result.add_column("arm", overflow="fold", min_width=12)
    for number, arm in enumerate(summary["arms"]):
        cells = list(_cells(arm, paper))
        if number == 0:
            for title, _ in cells:
                result.add_column(title, justify="right")
        result.add_row(arm["arm"], *(text for _, text in cells))
    return result


def _cells(arm: Mapping[str, Any], paper: Numbers) -> Iterator[tuple[str, str]]:
    """Yield titles and texts; a measure that the paper has of any arm is followed by its number."""
    for start, (title, values) in COLUMNS.items():
        for name, value in values(arm).items():
            yield f"{title}{Path(name).name}", _show(value)
            if any(start + name in numbers for numbers in paper.values()):
                number = paper.get(arm["arm"], {}).get(start + name)
                yield "paper", "–" if number is None else f"{number:.3g}"


def _show(found: Mapping[str, float | None] | None) -> str:
    if found is None or found["value"] is None:
        return "–"
    value, low, high = (found[name] for name in ("value", "low", "high"))
    between = "" if low is None or high is None else f" [{low:.3g}, {high:.3g}]"
    return f"{value:.3g}{between}"
