"""`esamp export`: a run as a Parquet table."""

from pathlib import Path
from typing import Annotated

import typer

from esamp.cli.console import talk
from esamp.evals.export import export_parquet
from esamp.evals.folder import RunFolder


def export(
    run: Annotated[Path, typer.Argument(help="Folder that `esamp eval --out` wrote.")],
    out: Annotated[Path, typer.Option(help="The file; written anew if it is there.")] = Path(
        "samples.parquet"
    ),
) -> None:
    """Write all samples of RUN, with their grades, as a Parquet table."""
    rows = export_parquet(RunFolder.existing(run), out)
    talk.print(f"wrote {out} ({rows} rows)", markup=False)
