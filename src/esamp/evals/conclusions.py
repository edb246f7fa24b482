"""What a run cannot show, in sentences made from its numbers."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from esamp.evals.frontier import LENGTH_TOLERANCE
from esamp.evals.scoring import OWN
from esamp.evals.table import SummarySettings, Table

FEW_PROMPTS = 20
"""Below this, percentile intervals are clearly too narrow."""

MANY_INTERVALS = 20
"""From here on, at least one of the 95 % intervals is expected to miss."""

Rows = Sequence[Mapping[str, Any]]


def cannot_conclude(
    settings: SummarySettings, table: Table, summary: Mapping[str, Any]
) -> list[str]:
    """Return what the run does not show, one sentence each.

    Args:
        settings: Of the run.
        table: Its measures.
        summary: Everything else of the summary.
    """
    frontier, comparisons = summary["frontier"], summary["comparisons"]
    curve = [arm for arm in settings.curve if table.found(arm)]
    return [
        *_missing(settings, table),
        *_size(settings),
        *_readers(settings, table),
        *_controls(settings, curve),
        *(_lifts(frontier) if len(curve) > 1 else ()),
        *_differences(comparisons),
        *_many([*frontier, *comparisons]),
    ]


def _missing(settings: SummarySettings, table: Table) -> Iterable[str]:
    each = len(settings.seeds) * len(settings.items)
    kinds = {
        "measures": "groups",
        **({"grades": "grades of groups"} if settings.verifiable else {}),
    }
    for kind, name in kinds.items():
        lacking = {
            arm.name: each - table.found(arm.name, kind)
            for arm in settings.arms
            if table.found(arm.name, kind) < each
        }
        if lacking:
            listed = ", ".join(f"{arm} {count} of {each}" for arm, count in lacking.items())
            yield (
                f"The run is not complete: {name} are missing ({listed}). All numbers are over "
                "what is there."
            )


def _size(settings: SummarySettings) -> Iterable[str]:
    prompts = len(settings.items)
    if prompts == 1:
        yield "There is one prompt: no interval is given, and nothing follows for other prompts."
    elif prompts < FEW_PROMPTS:
        yield (
            f"There are {prompts} prompts: intervals from fewer than {FEW_PROMPTS} are too narrow."
        )
    if len(settings.seeds) == 1:
        yield "There is one seed: whether another run would give the same is not tested."
    if settings.samples == 1:
        yield "There is one sample per prompt: nothing is known about differences within a prompt."


def _readers(settings: SummarySettings, table: Table) -> Iterable[str]:
    """Say what embedders and scorers leave open."""
    if not settings.verifiable and len(settings.embedders) == 1:
        yield (
            f"Diversity is measured by one embedder ({settings.embedders[0]}): another may rank "
            "the arms differently."
        )
    if not settings.embedders:
        yield "There is no embedder: nothing is known about differences in meaning."
    if not settings.scorers:
        yield "There is no scorer: nothing is known about perplexity, so diversity has no price."
    elif list(settings.scorers) == [OWN]:
        yield (
            "Perplexity is under the sampled model itself only: what it finds likely need not be "
            "good text to another reader."
        )
    for embedder in settings.embedders:
        cells = [table.cells(arm.name, ("cut", embedder)) for arm in settings.arms]
        cut, texts = (
            sum(each.above.sum() for each in cells),
            sum(each.below.sum() for each in cells),
        )
        if cut:
            yield (
                f"Embedder {embedder} reads only the beginning of {cut / texts:.0%} of the "
                "samples: differences after it are not seen."
            )


def _controls(settings: SummarySettings, curve: Sequence[str]) -> Iterable[str]:
    if not curve:
        yield "There is no vanilla arm: the arms can be compared with each other only."
    elif len(curve) == 1 and settings.others:
        yield (
            f"There is one vanilla temperature ({curve[0]}): whether another temperature does as "
            "well is not tested, and no lift is given."
        )
    if not settings.verifiable and settings.plain is None:
        yield "There is no vanilla arm at temperature 1: differences from it are not given."


def _lifts(rows: Rows) -> Iterable[str]:
    def under(row: Mapping[str, Any]) -> tuple[str, str]:
        return row["embedder"], row["scorer"]

    for (embedder, scorer), found in groupby(sorted(rows, key=under), key=under):
        here = list(found)
        where = f"by {embedder} and {scorer}"
        outside = _arms(here, lambda row: row["lift"] is None)
        if outside:
            yield f"Outside vanilla's range, so without a lift {where}: {', '.join(outside)}."
        unclear = _arms(here, lambda row: _includes(row, 1.0))
        if unclear:
            yield f"The interval of the lift {where} includes no gain: {', '.join(unclear)}."
        vague = _arms(here, lambda row: row["lift"] is not None and row["low"] is None)
        if vague:
            yield f"The lift {where} has no interval: {', '.join(vague)}."
    differing = _arms(rows, lambda row: bool(row["length_differs"]))
    if differing:
        yield (
            f"Mean length is more than {LENGTH_TOLERANCE:.0%} off vanilla's at the same "
            "perplexity, and a length of its own moves diversity and perplexity: "
            f"{', '.join(differing)}."
        )
    repeating = _arms(rows, lambda row: bool(row["repeats"]))
    if repeating:
        yield (
            "Samples repeat themselves more than vanilla's at the same perplexity, which scorers "
            f"find likely and embedders do not see, so the lift is not to be believed: "
            f"{', '.join(repeating)}."
        )


def _differences(rows: Rows) -> Iterable[str]:
    def about(row: Mapping[str, Any]) -> tuple[str, int]:
        return row["measure"], row["k"] or 0

    for (measure, k), found in groupby(sorted(rows, key=about), key=about):
        name = measure.replace("_at_k", f"@{k}") if k else measure
        unclear = [f"{row['a']} against {row['b']}" for row in found if _includes(row, 0.0)]
        if unclear:
            yield f"The interval of the difference in {name} includes none: {', '.join(unclear)}."
    if any(row["k"] for row in rows):
        yield (
            "In pass@k the best vanilla temperature is chosen on the data that it is judged on, "
            "which favours vanilla: a small loss against it is no evidence of harm."
        )


def _many(rows: Rows) -> Iterable[str]:
    count = sum(row["low"] is not None for row in rows)
    if count >= MANY_INTERVALS:
        yield (
            f"There are {count} intervals of 95 %: about {math.ceil(count / 20)} of them miss by "
            "chance alone."
        )


def _arms(rows: Rows, chosen: Callable[[Mapping[str, Any]], bool]) -> list[str]:
    """Return the arms of the chosen rows, each once, in order."""
    return list(dict.fromkeys(row["arm"] for row in rows if chosen(row)))


def _includes(row: Mapping[str, Any], none: float) -> bool:
    return row["low"] is not None and row["low"] <= none <= row["high"]
