"""Tables of what a run measured, with the paper's numbers beside a column where it has any."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from esamp.evals.paper import SPEED
from esamp.evals.statistics import Interval
from esamp.report.arms import Label, Mark
from esamp.report.runs import Arm, Run
from esamp.report.tables import (
    Grid,
    Row,
    Show,
    cell,
    fixed,
    keys_of,
    of_mapping,
    percent,
    reader,
    significant,
)


@dataclass(frozen=True, kw_only=True)
class Column:
    """A measure of all arms."""

    title: str
    unit: str
    of: Callable[[Arm], Interval]
    show: Show
    name: str = ""
    """In paper.json; empty where the paper has no such number."""


def results(run: Run, labels: Mapping[str, Label], marks: Mapping[str, Mark]) -> list[Grid]:
    """Return the tables of all that was measured; a measure that no arm has is left out."""
    groups = {
        "Right answers": _answers(run),
        "Diversity and quality": _diversity(run),
        "Vendi score of other orders": _orders(run),
        "Decoding": _decoding(run),
    }
    grids = []
    for title, columns in groups.items():
        kept = [
            shown for each in columns if _measured(run, each) for shown in _with_paper(run, each)
        ]
        rows = [
            Row(
                name=arm.name,
                mark=marks[labels[arm.name].family],
                cells=[cell(each.of(arm), each.show) for each in kept],
            )
            for arm in run.arms
        ]
        if kept:
            grids.append(
                Grid(title=title, columns=[(each.title, each.unit) for each in kept], rows=rows)
            )
    return grids


def _measured(run: Run, column: Column) -> bool:
    return any(column.of(arm).value is not None for arm in run.arms)


def _with_paper(run: Run, column: Column) -> list[Column]:
    """Return a column, and after it the paper's where it has numbers of these arms."""
    beside = Column(
        title="paper",
        unit=column.title,
        of=lambda arm: Interval(value=run.paper.get(arm.name, {}).get(column.name)),
        show=column.show,
    )
    return [column, beside] if _measured(run, beside) else [column]


def _at_k(name: str, k: int) -> Column:
    title, measure = f"{name}@{k}", of_mapping(f"{name}_at_k", k)
    return Column(title=title, unit="%", of=measure, show=percent, name=title)


def _answers(run: Run) -> list[Column]:
    return [
        *(_at_k("pass", k) for k in run.ks),
        # A majority of one is that one.
        *(_at_k("maj", k) for k in run.ks if k > 1),
        Column(
            title="distinct answers",
            unit="per prompt",
            of=lambda arm: arm.distinct_answers,
            show=fixed(2),
        ),
    ]


def _diversity(run: Run) -> list[Column]:
    columns = []
    for embedder in keys_of(run.arms, "vendi"):
        columns += [
            Column(
                title="Vendi",
                unit=embedder,
                of=of_mapping("vendi", embedder),
                show=fixed(2),
                name=f"vendi:{embedder}",
            ),
            Column(
                title="similarity",
                unit=embedder,
                of=of_mapping("similarity", embedder),
                show=fixed(3),
                name=f"similarity:{embedder}",
            ),
        ]
    for scorer in keys_of(run.arms, "perplexity"):
        under = reader(scorer)
        columns.append(
            Column(
                title="perplexity",
                unit=under,
                of=of_mapping("perplexity", scorer),
                show=significant,
                name=f"perplexity:{scorer}",
            )
        )
    for where, words in (("within", "within a sample"), ("across", "across samples")):
        longest = max(
            (n for arm in run.arms for n in arm.distinct_n.get(where, {})), key=int, default="3"
        )
        columns.append(
            Column(
                title=f"distinct {longest}-grams",
                unit=words,
                of=of_mapping("distinct_n", where, longest),
                show=fixed(3),
            )
        )
    columns.append(
        Column(title="self-BLEU", unit="0 to 1", of=lambda arm: arm.self_bleu, show=fixed(3))
    )
    return columns


def _orders(run: Run) -> list[Column]:
    return [
        Column(
            title=f"order {order.replace('inf', '∞')}",
            unit=embedder,
            of=of_mapping("vendi_orders", embedder, order),
            show=fixed(2),
        )
        for embedder in keys_of(run.arms, "vendi_orders")
        for order in ("2", "inf")
    ]


def _decoding(run: Run) -> list[Column]:
    return [
        Column(
            title="temperature",
            unit="",
            of=lambda arm: Interval(value=arm.temperature),
            show="{:.3g}".format,
        ),
        Column(title="entropy", unit="nats per token", of=lambda arm: arm.entropy, show=fixed(2)),
        Column(
            title="KL from unsteered", unit="nats per token", of=lambda arm: arm.kl, show=fixed(3)
        ),
        Column(
            title="length",
            unit="tokens per sample",
            of=lambda arm: arm.tokens_per_sample,
            show=fixed(1),
        ),
        Column(
            title="ended by itself", unit="% of samples", of=lambda arm: arm.finished, show=percent
        ),
        Column(
            title="speed",
            unit="tokens per second",
            of=lambda arm: Interval(value=run.speeds.get(arm.name)),
            show=significant,
            name=SPEED,
        ),
    ]
