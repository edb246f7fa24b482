"""From the measures and grades of a run to its summary: pure, and the same bytes each time."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from esamp.errors import UsageError
from esamp.evals.conclusions import cannot_conclude
from esamp.evals.frontier import Point, against_best, lift, lift_difference
from esamp.evals.measure import GRAMS, ORDERS
from esamp.evals.statistics import Cells, Interval, Weights, difference, interval
from esamp.evals.table import ArmSettings as ArmSettings
from esamp.evals.table import Line, Measure, Table
from esamp.evals.table import SummarySettings as SummarySettings


def summarise(
    settings: SummarySettings, measures: Iterable[Line], grades: Iterable[Line] = ()
) -> dict[str, Any]:
    """Return the summary of a run, as JSON data.

    Numbers are means over prompts and seeds, perplexity exp of total nats over total tokens,
    entropy and KL means over tokens; each with its interval (see `esamp.evals.statistics`). What is
    missing of a run that is not complete is left out and reported in `cannot_conclude`.

    Args:
        settings: Of the run.
        measures: Lines of measures.jsonl, in any order; read once, and not kept.
        grades: Lines of grades.jsonl, likewise.

    Raises:
        UsageError: A line belongs to another run, or comes twice.
    """
    table = _table(settings, measures, grades)
    summary = {
        "task": settings.task,
        "model": settings.model,
        "backend": settings.backend,
        "samples": settings.samples,
        "seeds": list(settings.seeds),
        "items": len(settings.items),
        "private": settings.private,
        "ks": settings.ks,
        "arms": [_arm(settings, table, arm) for arm in settings.arms],
        "frontier": _frontier(settings, table),
        "comparisons": _best_vanilla(settings, table)
        if settings.verifiable
        else _plain_vanilla(settings, table),
    }
    return summary | {"cannot_conclude": cannot_conclude(settings, table, summary)}


def compare(
    settings: SummarySettings,
    arms: tuple[str, str],
    measures: Iterable[Line],
    grades: Iterable[Line] = (),
) -> list[dict[str, Any]]:
    """Return the paired differences, first arm less second, in lift and in every measure of both.

    Over the cells that both have. Perplexity is compared as its logarithm.

    Raises:
        UsageError: The run has no such arm, or a line belongs to another run.
    """
    a, b = arms
    names = [arm.name for arm in settings.arms]
    for name in arms:
        if name not in names:
            raise UsageError(f"the run has no arm {name!r}: give one of {', '.join(names)}")
    table = _table(settings, measures, grades)
    shared = [measure for measure in table.measures(a) if measure in table.measures(b)]
    return [
        *_lift_differences(settings, table, a, b),
        *(_comparison(table, a, b, measure) for measure in shared),
    ]


def _table(settings: SummarySettings, measures: Iterable[Line], grades: Iterable[Line]) -> Table:
    table = Table([arm.name for arm in settings.arms], settings.seeds, settings.items)
    table.add_measures(measures)
    table.add_grades(grades, settings.ks)
    return table


def _arm(settings: SummarySettings, table: Table, arm: ArmSettings) -> dict[str, Any]:
    def of(*measure: str) -> dict[str, float | None]:
        return _interval(table.cells(arm.name, measure))

    ks = [str(k) for k in settings.ks]
    verifiable, answered = settings.verifiable, table.answered
    positions = [measure[2] for measure in table.measures(arm.name) if measure[0] == "dynamics"]
    return {
        "arm": arm.name,
        "temperature": arm.temperature,
        "pass_at_k": {k: of("pass_at_k", k) for k in ks} if verifiable else None,
        "maj_at_k": {k: of("maj_at_k", k) for k in ks} if verifiable and answered else None,
        "distinct_answers": of("distinct_answers") if verifiable and answered else None,
        "vendi": {name: of("vendi", name, "1") for name in settings.embedders},
        "vendi_orders": {
            name: {order: of("vendi", name, order) for order in ORDERS if order != "1"}
            for name in settings.embedders
        },
        "similarity": {name: of("similarity", name) for name in settings.embedders},
        "distinct_n": {
            where: {str(n): of("distinct", where, str(n)) for n in GRAMS}
            for where in ("within", "across")
        },
        "self_bleu": of("self_bleu"),
        "perplexity": {
            name: _interval(table.cells(arm.name, ("log_perplexity", name)), _exp)
            for name in settings.scorers
        },
        "entropy": of("entropy"),
        "kl": of("kl") if table.cells(arm.name, ("kl",)).defined.any() else None,
        "tokens_per_sample": of("tokens_per_sample"),
        "finished": of("finished"),
        "distiller_error": table.curve(arm.name, "distiller_error"),
        "novelty": table.curve(arm.name, "novelty"),
        "dynamics": {
            name: [
                {"position": position} | of("dynamics", name, str(position))
                for position in sorted({int(each) for each in positions})
            ]
            for name in settings.embedders
        },
    }


def _curve(settings: SummarySettings, table: Table, kind: str) -> list[str]:
    """Return the vanilla arms; one that was not reached yet is no part of the curve."""
    return [arm for arm in settings.curve if table.found(arm, kind)]


def _frontier(settings: SummarySettings, table: Table) -> list[dict[str, Any]]:
    """Return the lift of every arm but vanilla, for each embedder and scorer."""
    rows = []
    curve = _curve(settings, table, "measures")
    for arm in settings.others:
        for embedder in settings.embedders:
            for scorer in settings.scorers:
                row: dict[str, Any] = {"arm": arm, "embedder": embedder, "scorer": scorer}
                found, differs, repeats = Interval(), None, None
                if len(curve) > 1:
                    found, differs, repeats = lift(
                        _point(table, arm, embedder, scorer),
                        [_point(table, each, embedder, scorer) for each in curve],
                    )
                rows.append(
                    row
                    | {"lift": found.value, "low": found.low, "high": found.high}
                    | {"length_differs": differs, "repeats": repeats}
                )
    return rows


def _lift_differences(
    settings: SummarySettings, table: Table, a: str, b: str
) -> Iterator[dict[str, Any]]:
    """Yield how far the lifts of two arms are apart, where there is a vanilla curve."""
    curve = _curve(settings, table, "measures")
    if len(curve) < 2:
        return
    for embedder in settings.embedders:
        for scorer in settings.scorers:
            one, other, *vanilla = (_point(table, arm, embedder, scorer) for arm in (a, b, *curve))
            found = lift_difference(one, other, vanilla)
            yield _row(a, b, ("lift", embedder, scorer), found)


def _point(table: Table, arm: str, embedder: str, scorer: str) -> Point:
    return Point(
        vendi=table.cells(arm, ("vendi", embedder, "1")),
        log_perplexity=table.cells(arm, ("log_perplexity", scorer)),
        length=table.cells(arm, ("tokens_per_sample",)),
        distinct=table.cells(arm, ("distinct", "within", "3")),
    )


def _plain_vanilla(settings: SummarySettings, table: Table) -> list[dict[str, Any]]:
    """Return how far every arm is from plain vanilla in the Vendi score of each embedder."""
    plain = settings.plain
    if plain is None:
        return []
    return [
        _comparison(table, arm.name, plain, ("vendi", embedder, "1"))
        for arm in settings.arms
        if arm.name != plain
        for embedder in settings.embedders
    ]


def _best_vanilla(settings: SummarySettings, table: Table) -> list[dict[str, Any]]:
    """Return how far every arm is from the best vanilla temperature in pass@k, for each k."""
    vanilla = _curve(settings, table, "grades")
    rows = []
    for arm in settings.others:
        for k in settings.ks:
            measure = ("pass_at_k", str(k))
            gain = against_best(
                table.cells(arm, measure), [table.cells(each, measure) for each in vanilla]
            )
            if gain is not None:
                rows.append(_row(arm, vanilla[gain.best], measure, gain.difference))
    return rows


def _comparison(table: Table, a: str, b: str, measure: Measure) -> dict[str, Any]:
    one, other = table.cells(a, measure), table.cells(b, measure)
    return _row(a, b, measure, interval(difference(one, other), table.shape[1]))


def _row(a: str, b: str, measure: Measure, found: Interval) -> dict[str, Any]:
    at_k = measure[0] in ("pass_at_k", "maj_at_k")
    return {
        "a": a,
        "b": b,
        "measure": measure[0] if at_k else label_of(measure),
        "k": int(measure[1]) if at_k else None,
        "difference": found.value,
        "low": found.low,
        "high": found.high,
    }


def label_of(measure: Measure) -> str:
    """Return a measure's name in comparisons: `vendi:EMBEDDER`, `dynamics:EMBEDDER:POSITION`."""
    return ":".join(measure[:2] if measure[0] == "vendi" and measure[2] == "1" else measure)


def _interval(
    cells: Cells, transform: Callable[[np.ndarray], np.ndarray] | None = None
) -> dict[str, float | None]:
    def statistic(weights: Weights) -> np.ndarray:
        values = cells.ratio(weights)
        return values if transform is None else transform(values)

    return interval(statistic, cells.below.shape[1]).to_json()


def _exp(values: np.ndarray) -> np.ndarray:
    """Return exp; what no number can hold is infinite, which `interval` takes for undefined."""
    with np.errstate(over="ignore"):
        result: np.ndarray = np.exp(values)
    return result
