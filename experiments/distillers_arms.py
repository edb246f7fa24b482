"""Which distillers experiments/distillers.py compares: one table for each question."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import product

from distillers_replay import Arm

from esamp import MeanDistiller, MLPDistiller

HIDDEN = 576
RIDGES = (1.0, 10.0, 100.0, 1000.0)
DEFAULT = "relu 256, ridge 100"
"""The library's distiller, which all others are compared with, as they are with the mean."""
MEAN = "mean"


def tables() -> dict[str, dict[str, Arm]]:
    """Return question -> name -> arm: one or two settings at a time vary around the library's."""
    return {
        "does shallow add anything, and at which rank": ranks(),
        "which features": features(),
        "which input": inputs(),
        "which target": targets(),
        "does forgetting help": forgetting(),
        "does what is fitted on other prompts help": fitted(),
        "leverage gate": named(Arm(gate=True, ridge=ridge) for ridge in RIDGES),
        "several at once": combined(),
        "controls": controls(),
    }


def arms() -> dict[str, Arm]:
    """Return all arms by name."""
    return {name: arm for table in tables().values() for name, arm in table.items()}


def named(several: Iterable[Arm]) -> dict[str, Arm]:
    """Return arms by their names."""
    return {arm.name: arm for arm in several}


def ranks() -> dict[str, Arm]:
    """Return the mean, the paper's distiller, and random features of every rank."""
    banks = {
        MEAN: Arm(distiller=MeanDistiller()),
        "mlp (paper)": Arm(distiller=MLPDistiller()),
        "mlp (tuned)": Arm(distiller=MLPDistiller(learning_rate=1e-3, clip=1e9), normalised=True),
    }
    ranks = (0, 16, 64, 256, 1024)
    return banks | named(Arm(rank=rank, ridge=ridge) for rank, ridge in product(ranks, RIDGES))


def features() -> dict[str, Arm]:
    """Return other features than relu's; svd and learned ones are fitted on other prompts."""
    kinds = ("gated", "linear", "svd", "learned")
    mixed = product(kinds, (16, 64, 256), RIDGES)
    whole = product(("linear",), (HIDDEN,), RIDGES)
    return named(
        Arm(features=kind, rank=rank, ridge=ridge) for kind, rank, ridge in (*mixed, *whole)
    )


def inputs() -> dict[str, Arm]:
    """Return arms that are shown another layer."""
    kinds = (("relu", 256), ("linear", HIDDEN))
    return named(
        Arm(features=kind, rank=rank, ridge=ridge, shown=shown)
        for shown, (kind, rank), ridge in product(("embedding", "middle"), kinds, RIDGES)
    )


def targets() -> dict[str, Arm]:
    """Return arms that shrink the mean less: a centred target, or a bias of less ridge."""
    bases = [
        Arm(features=kind, rank=rank, ridge=ridge)
        for (kind, rank), ridge in product((("relu", 256), ("linear", HIDDEN)), RIDGES)
    ]
    return named(replace(base, centred=True) for base in bases) | named(
        replace(base, bias=10.0) for base in bases
    )


def forgetting() -> dict[str, Arm]:
    """Return the library's distiller and the bias alone with both kinds of forgetting."""
    ageing = [{"forget": 0.999}, {"forget": 0.99}, {"drift": 1e-3}, {"drift": 1e-2}]
    bases = (Arm(), Arm(rank=0, ridge=1.0))
    return named(replace(base, **each) for base, each in product(bases, ageing))


def fitted() -> dict[str, Arm]:
    """Return arms with something that is fitted once per model, on other prompts."""
    several = []
    for kind, rank in (("relu", 256), ("linear", HIDDEN)):
        base = Arm(features=kind, rank=rank)
        several.append(replace(base, prior="frozen"))
        for ridge in RIDGES:
            several.append(replace(base, ridge=ridge, prior="weights"))
            several.append(replace(base, ridge=ridge, standardised=True))
        for ridge in (1.0, 10.0):
            several.append(replace(base, ridge=ridge, prior="offset"))
        for rows in (16.0, 64.0, 256.0, 1024.0):
            several.append(replace(base, ridge=1.0, prior="rows", prior_rows=rows))
    return named(several)


def combined() -> dict[str, Arm]:
    """Return what looked best in the other tables, put together, and a ridge past their end."""
    whole = Arm(features="linear", rank=HIDDEN, ridge=1000.0, centred=True)
    learned = Arm(features="learned", rank=16, ridge=10.0)
    return named(
        [
            replace(whole, ridge=10_000.0),
            replace(whole, gate=True),
            replace(whole, prior="weights"),
            replace(whole, shown="middle"),
            replace(learned, gate=True),
            replace(learned, prior="weights"),
            Arm(ridge=300.0, centred=True),
            Arm(drift=0.01, gate=True),
        ]
    )


def controls() -> dict[str, Arm]:
    """Return the prompt's own pairs, other seeds, and another row's input."""
    return named(
        [
            Arm(prefill=True),
            Arm(rank=0, ridge=1.0, prefill=True),
            Arm(seed=1),
            Arm(seed=2),
            Arm(shuffled=True),
        ]
    )


FINALISTS = (
    MEAN,
    DEFAULT,
    "relu 256, ridge 100, gate",
    "relu 256, ridge 100, forget 0.99",
    "relu 256, ridge 100, drift 0.01",
    "relu 256, ridge 100, middle",
    "relu 256, ridge 1000, prior weights",
    "relu 1024, ridge 1000",
    "linear 576, ridge 1000",
    "linear 576, ridge 1000, centred",
    "linear 576, ridge 1000, prior weights",
    "learned 16, ridge 10",
)
"""Replayed on the second source and on all prompts as one group; chosen on the first source."""
