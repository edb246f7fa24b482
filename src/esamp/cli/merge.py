"""`esamp merge`: runs of different seeds as one."""

from pathlib import Path
from typing import Annotated

import typer

from esamp.cli.eval_table import show
from esamp.evals.folder import RunFolder
from esamp.evals.merge import merge_runs
from esamp.report.runs import open_run


def merge(
    runs: Annotated[list[Path], typer.Argument(help="Folders that `esamp eval --out` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder of the whole.")],
    json: Annotated[bool, typer.Option("--json", help="The summary on stdout.")] = False,
) -> None:
    """Make one run of RUNS, complete ones that differ in nothing but their seeds."""
    parts = [open_run(run) for run in runs]
    show(merge_runs(parts, out), RunFolder.existing(out), json=json)
