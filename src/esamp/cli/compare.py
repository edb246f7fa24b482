"""`esamp compare`: paired differences of two arms of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from esamp.cli.console import talk, write_json
from esamp.evals.arms import parse_arm
from esamp.evals.summary import compare as paired_differences
from esamp.report.runs import open_run

SHARES = ("pass_at_k", "maj_at_k", "finished")
"""Measures that are written in percentage points."""


def compare(
    run: Annotated[Path, typer.Argument(help="Folder that `esamp eval --out` wrote.")],
    a: Annotated[str, typer.Argument(help="An arm, such as 'esamp(beta=0.5)'.")],
    b: Annotated[str, typer.Argument(help="Another, such as 'vanilla(temperature=0.8)'.")],
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Print how far arm A is from arm B, prompt by prompt, in every measure of RUN."""
    files, config = open_run(run)
    # Names that say the same arm in other words are the same arm.
    names = [each if each in config.arms else parse_arm(each).name for each in (a, b)]
    rows = paired_differences(
        config.summary_settings({}),
        (names[0], names[1]),
        files.measures.lines(),
        files.grades.lines(),
    )
    if not files.has("summary.json"):
        talk.print("hint: the run is not complete; the differences are of what is there")
    if json:
        write_json({"a": names[0], "b": names[1], "differences": rows})
        return
    Console().print(difference_table(names[0], names[1], rows))


def difference_table(a: str, b: str, rows: list[dict[str, Any]]) -> Table:
    """Return differences as a table, those clear of 0 in bold; dynamics are left to the JSON."""
    table = Table(
        title=Text(f"{a} less {b}"),
        caption=Text("Paired over prompts; bold: the whole 95 % interval is on one side of 0."),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("measure")
    table.add_column("difference", justify="right")
    table.add_column("95 % interval", justify="right")
    for row in rows:
        if row["measure"].startswith("dynamics"):
            continue
        clear = row["low"] is not None and not row["low"] <= 0 <= row["high"]
        cells = [_name(row), _written(row, "difference"), _interval(row)]
        table.add_row(*(Text(each) for each in cells), style="bold" if clear else "")
    return table


def _name(row: Mapping[str, Any]) -> str:
    name: str = row["measure"]
    return name.replace("_at_k", f"@{row['k']}") if row["k"] is not None else name


def _interval(row: Mapping[str, Any]) -> str:
    return f"{_written(row, 'low')} to {_written(row, 'high')}" if row["low"] is not None else "–"


def _written(row: Mapping[str, Any], key: str) -> str:
    value = row[key]
    if value is None:
        return "–"
    text = f"{100 * value:+.1f} pp" if row["measure"] in SHARES else f"{value:+.3f}"
    return text.replace("-", "−")
