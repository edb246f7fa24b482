"""`esamp report`: one HTML page from run folders."""

from pathlib import Path
from typing import Annotated

import typer

from esamp.cli.console import talk
from esamp.errors import EsampError, MissingDependencyError, UsageError


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders that `esamp eval --out` wrote.")],
    out: Annotated[Path, typer.Option(help="The page; written anew if it is there.")] = Path(
        "report.html"
    ),
) -> None:
    """Write one self-contained page with tables, plots and samples of RUNS."""
    try:
        from esamp.report.build import build_report
    except ModuleNotFoundError as error:
        if error.name not in ("jinja2", "markupsafe"):
            raise
        raise MissingDependencyError(
            "the report needs jinja2: pip install 'esamp[eval]'"
        ) from error
    if out.is_dir():
        raise UsageError(f"{out} is a folder: give --out the name of a file, such as report.html")
    page = build_report(runs).encode()
    draft = out.with_name(f".{out.name}.part")
    try:
        draft.write_bytes(page)
        draft.replace(out)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise EsampError(
            f"{out} cannot be written ({error.strerror}): make room or give another --out"
        ) from error
    talk.print(f"wrote {out} ({len(page) / 1e6:.1f} MB)", markup=False)
