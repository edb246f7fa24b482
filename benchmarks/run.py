"""Measure what ESamp costs on this machine; `make bench` runs this.

    python benchmarks/run.py [--quick] [--rounds 5]

Two questions. What does decoding lose to it, on Transformers and, where it is installed, on vLLM
(`esamp bench decode`, alternately within one process)? And what does one step of each distiller
cost, in milliseconds, operations and bytes, as groups and width grow? Prints a table and writes
benchmarks/results/<machine>.json.
"""

import argparse
import importlib.util
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from esamp import ESamp, Explorer, MeanDistiller, MLPDistiller, RecursiveDistiller
from esamp.cli.console import machine
from esamp.layout import Layout
from esamp.method import Step

RESULTS = Path(__file__).parent / "results"
ROWS_PER_GROUP = 16


class CountOperations(TorchDispatchMode):
    """Counts what torch is asked to do: on a GPU, about one launch each."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Count and go on."""
        self.count += 1
        return function(*args, **(kwargs or {}))


def one_step(explorer: Explorer, step: Step) -> None:
    """Steer and learn once."""
    explorer.steer(step)
    explorer.learn(step, step.samples)


def distiller_step(distiller: Any, groups: int, hidden: int, device: str) -> dict[str, Any]:
    """Time steer + learn with 16 rows a group."""
    rows = groups * ROWS_PER_GROUP
    explorer = Explorer(ESamp(distiller=distiller), groups, hidden, device)
    step = Step(
        shallow=torch.randn(rows, hidden, device=device),
        deep=torch.randn(rows, hidden, device=device),
        samples=torch.arange(rows, device=device),
        positions=torch.ones(rows, dtype=torch.long, device=device),
        unfinished=torch.ones(rows, dtype=torch.bool, device=device),
        layout=Layout.of([row // ROWS_PER_GROUP for row in range(rows)], groups, device),
    )
    with torch.no_grad():
        one_step(explorer, step)
        with CountOperations() as operations:
            one_step(explorer, step)
        times = []
        for _ in range(7):
            start = time.perf_counter()
            one_step(explorer, step)
            if device != "cpu":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return {
        "distiller": distiller.name,
        "groups": groups,
        "hidden": hidden,
        "milliseconds": 1e3 * statistics.median(times),
        "operations": operations.count,
        "state_bytes_per_group": distiller.state_bytes(hidden),
    }


SHAPES = (
    ("transformers", 8, 16),
    ("vllm", 8, 16),
    ("vllm", 1, 1),
)
"""Backend, prompts and samples of each that are decoded."""


def decode(backend: str, prompts: int, samples: int, options: list[str]) -> dict[str, Any]:
    """Run `esamp bench decode` in a process of its own."""
    command = [sys.executable, "-m", "esamp.cli.main", "bench", "decode", "--json"]
    command += ["--backend", backend, "--prompts", f"{prompts}", "--samples", f"{samples}"]
    done = subprocess.run(command + options, check=True, stdout=subprocess.PIPE)
    result: dict[str, Any] = json.loads(done.stdout)
    return {"prompts": prompts, "samples": samples} | result


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round: does it run at all?")
    parser.add_argument("--rounds", default="5")
    given = parser.parse_args()
    quick = given.quick
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options = ["--rounds", "1" if quick else given.rounds]
    options += ["--max-new-tokens", "4"] if quick else []
    has_vllm = importlib.util.find_spec("vllm") is not None
    if not has_vllm:
        print("vLLM is not installed: it is left out")
    decoded = [
        decode(*shape, options) for shape in SHAPES if has_vllm or shape[0] == "transformers"
    ]
    steps = [
        distiller_step(distiller, groups, hidden, device)
        for distiller in (RecursiveDistiller(), MeanDistiller(), MLPDistiller())
        for hidden, most in ((576, 64), (4096, 8))
        for groups in (1, 8, 64)
        if groups <= (1 if quick else most)
    ]
    print(json.dumps(decoded, indent=2))
    print("| distiller | groups × 16 rows | hidden | ms a step | operations | state, MB a group |")
    print("|---|---|---|---|---|---|")
    for each in steps:
        print(
            f"| {each['distiller']} | {each['groups']} | {each['hidden']} | "
            f"{each['milliseconds']:.2f} | {each['operations']} | "
            f"{each['state_bytes_per_group'] / 1e6:.3f} |"
        )
    if not quick:
        here = machine()
        machine_name = f"cpu {here['processor']}" if device == "cpu" else here["device"]
        name = re.sub(r"[^a-z0-9]+", "-", machine_name.lower())
        data = {"decode": decoded, "steps": steps}
        (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=2) + "\n")


if __name__ == "__main__":
    main()
