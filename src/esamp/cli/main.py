"""Entry point of the command: verbs, and how errors end.

Exit code 2 for a value that cannot be used, 1 for a failure, with one line each; `--debug` anywhere
on the command line lets the traceback through.
"""

import sys
from collections.abc import Sequence
from typing import Annotated

import torch

from esamp import __version__
from esamp.errors import EsampError, UsageError

try:
    import typer
except ImportError:
    sys.exit("error: the command needs typer and rich: pip install 'esamp[transformers]'")

from esamp.cli.bench import bench_app
from esamp.cli.compare import compare
from esamp.cli.demo_model import demo_model
from esamp.cli.doctor import doctor
from esamp.cli.eval import evaluate
from esamp.cli.export import export
from esamp.cli.generate import generate
from esamp.cli.merge import merge
from esamp.cli.report import report

app = typer.Typer(
    help="Exploratory Sampling: K samples of one prompt that differ in meaning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="--debug, anywhere, shows the traceback of an error.",
)


def show_version(asked: bool) -> bool:
    """Print the version and end, where that is asked for."""
    if asked:
        typer.echo(f"esamp {__version__}")
        raise typer.Exit
    return asked  # typer takes it for the option's value


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=show_version, is_eager=True, help="The version, and nothing else."
        ),
    ] = False,
) -> None:
    """Take the options that stand before a verb."""


app.command()(generate)
app.command("eval")(evaluate)
app.command()(report)
app.command()(compare)
app.command()(merge)
app.command()(export)
app.command()(doctor)
app.command("demo-model")(demo_model)
app.add_typer(bench_app, name="bench")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; always ends in SystemExit."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        app([word for word in words if word != "--debug"])
    except UsageError as error:
        _end(error, debug, code=2)
    except EsampError as error:
        _end(error, debug, code=1)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        # The CPU allocator raises a plain RuntimeError.
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no details"
        told = EsampError(
            "out of memory: ask for fewer --samples or --max-new-tokens, or a smaller --model "
            f"or --dtype ({reason})"
        )
        _end(told, debug, code=1)


def _end(error: EsampError, debug: bool, code: int) -> None:
    if debug:
        raise error
    print(f"error: {error}", file=sys.stderr)  # noqa: T201  (the one line that a failure ends in)
    sys.exit(code)


if __name__ == "__main__":
    main()
