"""Run folders as the report reads them: their summary, checked, and what is missing beside it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from esamp.errors import UsageError
from esamp.evals.config import RunConfig
from esamp.evals.folder import RunFolder
from esamp.evals.paper import FILE as PAPER
from esamp.evals.paper import Numbers
from esamp.evals.statistics import Interval

Read = TypeVar("Read")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm of a run. Mappings are empty and the rest is None where nothing was measured."""

    name: str
    temperature: float | None
    pass_at_k: Mapping[int, Interval]
    maj_at_k: Mapping[int, Interval]
    distinct_answers: Interval
    vendi: Mapping[str, Interval]
    """By embedder, as the next two."""
    vendi_orders: Mapping[str, Mapping[str, Interval]]
    similarity: Mapping[str, Interval]
    distinct_n: Mapping[str, Mapping[str, Interval]]
    """By "within" and "across", then by n."""
    self_bleu: Interval
    perplexity: Mapping[str, Interval]
    """By scorer."""
    entropy: Interval
    """Nats per token, as the next."""
    kl: Interval
    tokens_per_sample: Interval
    finished: Interval
    distiller_error: Sequence[float | None]
    """Mean ‖residual‖²/‖deep‖² of each step."""
    novelty: Sequence[float | None]
    """Mean ‖residual‖/‖deep‖ at each position."""
    dynamics: Mapping[str, Sequence[tuple[int, Interval]]]
    """By embedder: similarity of the samples' first tokens, against how many those are."""


@dataclass(frozen=True, kw_only=True)
class Lift:
    """Vendi of an arm over the vanilla temperature curve's at equal log-perplexity."""

    arm: str
    embedder: str
    scorer: str
    lift: Interval
    """1 is on the curve; None outside the curve's range."""
    length_differs: bool | None
    repeats: bool | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Paired difference a − b."""

    a: str
    b: str
    measure: str
    k: int | None
    difference: Interval


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run."""

    folder: Path
    task: str
    model: str
    backend: str
    samples: int
    seeds: Sequence[int]
    items: int
    private: bool
    """Whether the items' text may not be shown."""
    ks: Sequence[int]
    arms: Sequence[Arm]
    frontier: Sequence[Lift]
    comparisons: Sequence[Comparison]
    cannot_conclude: Sequence[str]
    config: RunConfig
    environment: Mapping[str, Any]
    speeds: Mapping[str, float]
    """Tokens per second of each arm."""
    paper: Numbers = field(default_factory=dict)
    """What the paper has beside, by arm and measure, where the run's configuration said it."""
    notes: Sequence[str] = field(default=())
    """What is missing or damaged, in sentences."""


def open_run(folder: Path) -> tuple[RunFolder, RunConfig]:
    """Open a run folder, be its run complete or not.

    Raises:
        UsageError: It is not a run folder, damaged, or of another version.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder: give what `esamp eval --out` made")
    files = RunFolder.existing(folder)
    return files, _checked(folder / "config.json", files.config)


def read_run(folder: Path) -> Run:
    """Read a run folder, all but its samples.

    Raises:
        UsageError: It is not a run folder, not complete, damaged, or of another version.
    """
    files, config = open_run(folder)
    if not files.has("summary.json"):
        raise UsageError(
            f"{folder} has no summary.json, so its run is not complete: give `esamp eval` the same "
            "arguments again, and it goes on where it stopped"
        )
    data = files.read("summary.json")
    notes: list[str] = []
    environment = _read_beside(files, "environment.json", notes)
    timings = _read_beside(files, "timings.json", notes)
    return _checked(
        folder / "summary.json",
        lambda: Run(
            folder=folder,
            task=str(data["task"]),
            model=str(data["model"]),
            backend=str(data["backend"]),
            samples=int(data["samples"]),
            seeds=[int(each) for each in data["seeds"]],
            items=int(data["items"]),
            private=_truth(data["private"]) or config.private,
            ks=[int(each) for each in data["ks"] or ()],
            arms=[_arm(each) for each in data["arms"]],
            frontier=[_lift(each) for each in data["frontier"] or ()],
            comparisons=[_comparison(each) for each in data["comparisons"] or ()],
            cannot_conclude=[str(each) for each in data["cannot_conclude"]],
            config=config,
            environment=environment or {},
            speeds=_speeds(timings, notes),
            paper=_paper(files, notes),
            notes=notes,
        ),
    )


def _read_beside(files: RunFolder, name: str, notes: list[str]) -> Mapping[str, Any] | None:
    """Read a file that the report can do without; None if it has to."""
    if not files.has(name):
        notes.append(f"{name} is missing.")
        return None
    try:
        return files.read(name)
    except UsageError as error:
        notes.append(f"{error}.")
        return None


def _checked(path: Path, read: Callable[[], Read]) -> Read:
    try:
        return read()
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(
            f"{path} is not what this version of esamp writes ({what}): report with the version "
            "that ran it, or run it again into a new folder"
        ) from error


def _truth(value: object) -> bool:
    # Nothing but a plain false may let private text through.
    if not isinstance(value, bool):
        raise TypeError(f"private is {value!r}, not true or false")
    return value


def _number(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return float(value) if math.isfinite(value) else None


def _interval(data: Mapping[str, Any] | None, name: str = "value") -> Interval:
    if data is None:
        return Interval()
    low, high = _number(data["low"]), _number(data["high"])
    return Interval(value=_number(data[name]), low=low, high=high)


def _intervals(data: Mapping[str, Any] | None) -> dict[str, Interval]:
    return {str(key): _interval(each) for key, each in (data or {}).items()}


def _of_k(data: Mapping[str, Any] | None) -> dict[int, Interval]:
    return {int(key): _interval(each) for key, each in (data or {}).items()}


def _numbers(data: Sequence[Any] | None) -> list[float | None]:
    return [_number(each) for each in data or ()]


def _nested(data: Mapping[str, Any] | None) -> dict[str, dict[str, Interval]]:
    return {str(key): _intervals(each) for key, each in (data or {}).items()}


def _arm(data: Mapping[str, Any]) -> Arm:
    dynamics = {
        embedder: [(int(each["position"]), _interval(each)) for each in positions]
        for embedder, positions in (data.get("dynamics") or {}).items()
    }
    return Arm(
        name=str(data["arm"]),
        temperature=_number(data.get("temperature")),
        pass_at_k=_of_k(data.get("pass_at_k")),
        maj_at_k=_of_k(data.get("maj_at_k")),
        distinct_answers=_interval(data.get("distinct_answers")),
        vendi=_intervals(data.get("vendi")),
        vendi_orders=_nested(data.get("vendi_orders")),
        similarity=_intervals(data.get("similarity")),
        distinct_n=_nested(data.get("distinct_n")),
        self_bleu=_interval(data.get("self_bleu")),
        perplexity=_intervals(data.get("perplexity")),
        entropy=_interval(data.get("entropy")),
        kl=_interval(data.get("kl")),
        tokens_per_sample=_interval(data.get("tokens_per_sample")),
        finished=_interval(data.get("finished")),
        distiller_error=_numbers(data.get("distiller_error")),
        novelty=_numbers(data.get("novelty")),
        dynamics=dynamics,
    )


def _lift(data: Mapping[str, Any]) -> Lift:
    return Lift(
        arm=str(data["arm"]),
        embedder=str(data["embedder"]),
        scorer=str(data["scorer"]),
        lift=_interval(data, "lift"),
        length_differs=data["length_differs"],
        repeats=data.get("repeats"),
    )


def _comparison(data: Mapping[str, Any]) -> Comparison:
    return Comparison(
        a=str(data["a"]),
        b=str(data["b"]),
        measure=str(data["measure"]),
        k=None if data["k"] is None else int(data["k"]),
        difference=_interval(data, "difference"),
    )


def _speeds(timings: Mapping[str, Any] | None, notes: list[str]) -> dict[str, float]:
    if timings is None:
        return {}
    try:
        found = [(str(each["arm"]), _number(each["tokens_per_second"])) for each in timings["arms"]]
    except (KeyError, TypeError):
        notes.append("timings.json is not what this version of esamp writes.")
        return {}
    return {arm: speed for arm, speed in found if speed is not None}


def _paper(files: RunFolder, notes: list[str]) -> Numbers:
    # Most runs are set beside no paper.
    data = (_read_beside(files, PAPER, notes) if files.has(PAPER) else None) or {}
    try:
        return {
            arm: {name: float(value) for name, value in numbers.items()}
            for arm, numbers in data.items()
        }
    except (AttributeError, TypeError, ValueError):
        notes.append(f"{PAPER} is not what this version of esamp writes.")
        return {}
