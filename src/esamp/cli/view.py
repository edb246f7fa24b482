"""The terminal view of `generate`: samples side by side, novel stretches shaded."""

from bisect import bisect
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from esamp.generation import Completion, Generation

SHADES = ("", "on grey19", "on grey30", "bold on dark_green")
"""From what the distiller expected to what it did not."""

QUANTILES = (0.6, 0.8, 0.95)
"""Where one shade ends and the next begins, among the tokens of the run."""

WINDOW = 3
"""Tokens averaged over, so that stretches are shaded and not single tokens."""


@runtime_checkable
class Speaker(Protocol):
    """What the view needs of a generator: each token's text."""

    def pieces(self, token_ids: Sequence[int]) -> list[str]:
        """Return the text that each token adds."""


def show(
    runs: dict[str, Generation],
    speaker: Speaker,
    diversity: dict[str, dict[str, float]] | None,
    console: Console | None = None,
) -> None:
    """Print the samples of each run in a column of its own."""
    table = Table(show_lines=True, expand=True, padding=(0, 1))
    table.add_column("#", width=2, justify="right")
    for name in runs:
        table.add_column(name, ratio=1)
    columns = [shade(run.completions[0], speaker) for run in runs.values()]
    for number, cells in enumerate(zip(*columns, strict=True), start=1):
        table.add_row(str(number), *cells)
    console = console or Console()
    console.print(table)
    if any(each.novelty for run in runs.values() for each in run.completions[0]):
        legend = Text("shaded by novelty: ")
        for label, style in zip(("some", "more", "most"), SHADES[1:], strict=True):
            legend.append(f" {label} ", style=style)
            legend.append(" ")
        console.print(legend)
    for name, run in runs.items():
        line = f"{name}: {run.stats.tokens} tokens, {run.stats.tokens_per_second:.0f} per second"
        if diversity is not None:
            here = diversity[name]
            line += (
                f"; Vendi score {here['vendi']:.2f} of {len(run.completions[0])}, "
                f"mean similarity {here['similarity']:.2f}"
            )
        console.print(line)


def shade(samples: Sequence[Completion], speaker: Speaker) -> list[Text]:
    """Return each sample's text, its stretches of high novelty shaded."""
    smooth = [_smooth(each.novelty or []) for each in samples]
    known = sorted(value for values in smooth for value in values if value is not None)
    limits = [known[int(share * len(known))] for share in QUANTILES] if known else []
    texts = []
    for sample, novelty in zip(samples, smooth, strict=True):
        text = Text()
        for place, piece in enumerate(speaker.pieces(sample.token_ids)):
            value = novelty[place] if place < len(novelty) else None
            text.append(piece, style=SHADES[bisect(limits, value)] if value is not None else "")
        texts.append(text)
    return texts


def _smooth(novelty: Sequence[float | None]) -> list[float | None]:
    """Average over the tokens around each; what has no novelty stays without."""
    half = WINDOW // 2
    result: list[float | None] = []
    for place, value in enumerate(novelty):
        around = [each for each in novelty[max(place - half, 0) : place + half + 1] if each]
        result.append(None if value is None or not around else sum(around) / len(around))
    return result
