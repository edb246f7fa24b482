"""Which distiller predicts best, by replay of recorded states: no decoding, no sampling noise.

    python experiments/distillers.py record --out runs/distillers
    python experiments/distillers.py replay --out runs/distillers
    python experiments/distillers.py health --out runs/distillers
    python experiments/distillers.py report --out runs/distillers

A prompt's states and an arm's measures are one file each, written whole, so that a killed run goes
on where it was. `report` writes the tables to experiments/distillers/. What an arm fits once per
model comes from prompts of the other parity: no prompt is judged by a fit that has seen it.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distillers_arms import FINALISTS, arms
from distillers_health import CASES, check, long_run
from distillers_replay import Arm, replay
from distillers_report import write_tables
from distillers_states import SOURCES, Recording, record
from torch import Tensor

TABLES = Path(__file__).with_suffix("")
Measures = dict[str, Tensor]
"""What `replay` returns."""


def path_of(out: Path, stage: str, name: str) -> Path:
    """Return the file of one result."""
    return out / f"{stage}-{hashlib.sha1(name.encode()).hexdigest()[:10]}.json"


def write(path: Path, content: Any) -> None:
    """Write a file whole or not at all."""
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(content))
    draft.replace(path)


def run_arm(arm: Arm, states: Recording) -> Measures:
    """Replay an arm on all prompts of a source; each half has what is fitted on the other."""
    if not arm.fitted:
        return replay(arm, states)
    groups = range(len(states.taught))
    even, odd = (states.select(groups[parity::2]) for parity in (0, 1))
    halves = replay(arm, even, odd), replay(arm, odd, even)
    found = {}
    for name, values in halves[0].items():
        found[name] = values.new_zeros(len(groups), *values.shape[1:])
        for parity, half in enumerate(halves):
            found[name][parity::2] = half[name]
    return found


def chain_arm(arm: Arm, states: Recording) -> Measures:
    """Replay an arm on all prompts one after another, as one group whose topic changes."""
    chained = replay(arm, states.chained())
    return {name: values.view(len(states.taught), -1) for name, values in chained.items()}


def keep(path: Path, name: str, run: Callable[[], Measures]) -> None:
    """Replay an arm and write its measures, unless they are there."""
    if path.exists():
        return
    began = time.perf_counter()
    found = run()
    seconds = time.perf_counter() - began
    measures = {
        measure: [[None if x != x else round(x, 5) for x in steps] for steps in values.tolist()]
        for measure, values in found.items()
    }
    write(path, {"arm": name, "measures": measures, "seconds": round(seconds, 2)})
    error = found["error"].nanmean(dim=1).mean()
    print(f"{path.name} {name}: {error:.4f}, {seconds:.1f} s", flush=True)


def run_replay(out: Path) -> None:
    """Replay every arm on the stories, and the finalists on gcd, chained, and with a far fit."""
    stories, gcd = (Recording.load(out, source) for source in SOURCES)
    everything = arms()
    for name, arm in everything.items():
        keep(path_of(out, "stories", name), name, lambda arm=arm: run_arm(arm, stories))
    for name in FINALISTS:
        arm = everything[name]
        keep(path_of(out, "gcd", name), name, lambda arm=arm: run_arm(arm, gcd))
        if arm.fitted:
            keep(path_of(out, "far", name), name, lambda arm=arm: replay(arm, gcd, stories))
        else:
            keep(path_of(out, "chain", name), name, lambda arm=arm: chain_arm(arm, stories))


def run_health(out: Path) -> None:
    """Learn for 32k steps in fp32 and in fp64."""
    phi, deep = long_run(Recording.load(out, "stories"))
    for case in CASES:
        path = path_of(out, "health", case.name)
        if path.exists():
            continue
        marks = list(check(case, phi, deep))
        write(path, {"case": case.name, "marks": marks})
        print(case.name, marks[-1], flush=True)


def run_record(out: Path) -> None:
    """Decode all sources."""
    for source in SOURCES:
        record(out, source)


def main() -> None:
    """Run one stage."""
    stages = {
        "record": run_record,
        "replay": run_replay,
        "health": run_health,
        "report": lambda out: write_tables(out, TABLES),
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=stages)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    stages[options.stage](options.out)


if __name__ == "__main__":
    main()
