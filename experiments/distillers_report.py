"""Tables of experiments/distillers.py, as markdown and JSON."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from distillers_arms import DEFAULT, FINALISTS, HIDDEN, MEAN, tables
from distillers_health import CASES
from distillers_replay import Arm
from jaxtyping import Float

from esamp.evals.statistics import Cells, Interval, Statistic, interval
from esamp.recursive import RecursiveDistiller

STEPS = {"step 1": (0, 1), "4": (3, 4), "16": (15, 16), "49 to 64": (48, 64)}
"""Steps shown by themselves, as slices."""
STAGES = {
    "gcd": "finalists on gcd",
    "far": "finalists on gcd, fitted on stories",
    "chain": "finalists, all stories one after another in one group",
}

Values = Float[np.ndarray, "prompts steps"]
Arms = Mapping[str, Mapping[str, Values]]
"""Arm -> measure -> values."""


def write_tables(out: Path, folder: Path) -> None:
    """Write tables.md and results.json from what is on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    several = tables()
    known = {name: arm for table in several.values() for name, arm in table.items()}
    stages = {stage: read_arms(out, stage) for stage in ("stories", *STAGES)}
    # A far fit is judged on gcd, beside what needs no fit there.
    stages["far"] |= {name: stages["gcd"][name] for name in (MEAN, DEFAULT) if stages["far"]}
    found = {
        stage: {name: summarise(arms, name, known[name]) for name in arms}
        for stage, arms in stages.items()
    }
    checked = [json.loads(path.read_text()) for path in out.glob("health-*.json")]
    marks = {each["case"]: each["marks"] for each in checked}
    health = {case.name: marks[case.name] for case in CASES if case.name in marks}
    results = {**found, "health": health}
    lines = (
        f"{json.dumps(stage)}: {{\n"
        + ",\n".join(f" {json.dumps(name)}: {json.dumps(each)}" for name, each in part.items())
        + "\n}"
        for stage, part in results.items()
    )
    (folder / "results.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    parts = ["# Distillers compared by replay\n\nBrackets: 95 % by bootstrap over prompts.\n"]
    for question, table in several.items():
        names = [MEAN, DEFAULT, *(name for name in table if name not in (MEAN, DEFAULT))]
        parts.append(error_table(question, names, found["stories"]))
    for stage, title in STAGES.items():
        parts.append(error_table(title, FINALISTS, found[stage]))
    parts.append(health_table(health))
    (folder / "tables.md").write_text("\n".join(parts))


def read_arms(out: Path, stage: str) -> dict[str, dict[str, Values]]:
    """Return the measures of all arms of a stage that are on disk."""
    found = {}
    for path in sorted(out.glob(f"{stage}-*.json")):
        record = json.loads(path.read_text())
        found[record["arm"]] = {
            name: np.array(values, dtype=float) for name, values in record["measures"].items()
        }
    return found


def per_prompt(values: Values) -> Cells:
    """Return each prompt's mean over its steps, to be averaged over prompts."""
    known = np.isfinite(values)
    counts = known.sum(axis=1)
    sums = np.where(known, values, 0).sum(axis=1)
    means = np.divide(sums, counts, out=np.zeros(len(values)), where=counts > 0)
    return Cells(above=means[None], below=(counts > 0)[None].astype(float))


def quotient(one: Cells, other: Cells) -> Statistic:
    """Return the statistic one / other."""
    return lambda weights: one.ratio(weights) / other.ratio(weights)


def summarise(arms: Arms, name: str, arm: Arm) -> dict[str, Any]:
    """Return what the tables say of an arm: numbers with intervals, and bytes of state."""
    error = arms[name]["error"]
    prompts, mean = len(error), per_prompt(error)
    statistics = {
        shown: per_prompt(error[:, slice(*place)]).ratio
        for shown, place in STEPS.items()
        if place[1] <= error.shape[1]
    }
    statistics["mean"] = mean.ratio
    for reference in (MEAN, DEFAULT):
        if reference in arms:
            statistics[f"/ {reference}"] = quotient(mean, per_prompt(arms[reference]["error"]))
    if np.isfinite(arms[name].get("leverage", np.nan)).any():
        statistics["leverage"] = per_prompt(arms[name]["leverage"]).ratio
    found: dict[str, Any] = {
        key: interval(statistic, prompts).to_json() for key, statistic in statistics.items()
    }
    return rounded(found) | {"state_bytes": state_bytes(arm, HIDDEN)}


def rounded(found: Mapping[str, Mapping[str, float | None]]) -> dict[str, Any]:
    """Return numbers with four digits behind the point."""
    return {
        key: {end: None if x is None else round(x, 4) + 0.0 for end, x in each.items()}
        for key, each in found.items()
    }


def state_bytes(arm: Arm, hidden: int) -> int:
    """Return bytes of state per group; what all groups share is not counted."""
    if arm.distiller is not None:
        return arm.distiller.state_bytes(hidden)
    if arm.prior == "frozen":
        return 0
    means = 4 * (hidden + 1)
    if arm.prior == "offset" or arm.rank == 0:
        return means
    beside = means if arm.centred or arm.gate else 0
    return RecursiveDistiller(features=arm.rank).state_bytes(hidden) + beside


def show(found: Mapping[str, float | None] | None, digits: int = 3) -> str:
    """Return a number and its interval as text."""
    if found is None or found["value"] is None:
        return ""
    each = Interval(**found)
    text = f"{each.value:.{digits}f}"
    return text if each.low is None else f"{text} [{each.low:.{digits}f}, {each.high:.{digits}f}]"


def table(title: str, columns: list[str], rows: list[list[str]]) -> str:
    """Return a markdown table under a heading."""
    lines = [f"## {title}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows), ""])


def error_table(title: str, names: Iterable[str], results: Mapping[str, Any]) -> str:
    """Return online relative errors."""
    rows = [
        [
            name,
            *(f"{found[step]['value']:.2f}" if step in found else "" for step in STEPS),
            *(show(found.get(key)) for key in ("mean", f"/ {MEAN}", f"/ {DEFAULT}")),
            show(found.get("leverage"), 2),
            f"{found['state_bytes'] / 1e6:.3f}",
        ]
        for name in names
        if name in results
        for found in [results[name]]
    ]
    columns = ["distiller", *STEPS, "all steps", "/ that of mean", f"/ that of {DEFAULT}"]
    columns += ["rank correlation of leverage and error", "MB a group"]
    return table(title, columns, rows)


def health_table(results: Mapping[str, Any]) -> str:
    """Return how far fp32 is from fp64 after many steps."""
    rows = [
        [
            case,
            str(mark["step"]),
            *(
                (f"{mark[key]:.1e}" for key in ("gap", "least", "largest"))
                if mark["finite"]
                else ("not finite", "", "")
            ),
        ]
        for case, marks in results.items()
        for mark in marks
    ]
    columns = ["case", "step", "gap to fp64", "least eigenvalue of P", "largest"]
    return table("fp32 against fp64 over 32k steps", columns, rows)
