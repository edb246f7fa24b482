"""Measure the parts of a step, each beside what the model of cost says; docs/cost.md shows it.

    python benchmarks/cost.py [--quick]

The model (parts.py) knows bytes, FLOPs and kernels. How fast this machine moves bytes, multiplies
and starts a kernel is measured in the same run, so that nothing is fitted. Caches are emptied
before each step, as a model's weights would do. Prints tables and writes
benchmarks/results/cost-<device>.json.
"""

import argparse
import json
import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from cost_tables import BLOCKS, FEW, SAMPLES, SHARED_ROWS, VOCAB, tables
from parts import FP32, Rates
from torch import Tensor
from torch.nn.functional import linear

import esamp.recursive
from esamp import ESamp, Explorer, MeanDistiller, MLPDistiller, RecursiveDistiller
from esamp.backends.precision import choose_dtype
from esamp.backends.transformers.states import HeadRows
from esamp.backends.vllm.model import Steered
from esamp.backends.vllm.parameters import EngineSettings
from esamp.backends.vllm.pilot import Pilot
from esamp.cli.console import machine
from esamp.fusion import fuse_survivors, move_survivors
from esamp.layout import Layout
from esamp.method import Step

RESULTS = Path(__file__).parent / "results"
GRID = ((1, 576), (8, 576), (64, 576), (1, 4096), (8, 4096))
"""Groups and hidden."""
BACKEND_GRID = ((1, 576), (8, 576), (1, 4096), (8, 4096))
DISTILLERS = (MeanDistiller(), RecursiveDistiller(), MLPDistiller())
FLUSH_BYTES = 128 * 2**20
"""More than the last cache holds."""


class Watch:
    """Sums of seconds by name; on a GPU each mark waits for the device."""

    def __init__(self, device: str) -> None:
        self._waits = device != "cpu"
        self.seconds: dict[str, float] = {}

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        """Add the seconds of what runs within."""
        start = self._now()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - start

    def around(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return work that is timed whenever it is called."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.on(name):
                return work(*args, **kwargs)

        return timed

    def _now(self) -> float:
        if self._waits:
            torch.cuda.synchronize()
        return time.perf_counter()


class Bench:
    """Repeats what is timed, with cold caches."""

    def __init__(self, device: str, quick: bool) -> None:
        self.device = device
        self._most, self._seconds = (1, 0.0) if quick else (15, 0.7)
        self._flush = torch.zeros(FLUSH_BYTES // FP32, device=device)

    def median(self, once: Callable[[Watch], None], cold: bool = True) -> dict[str, float]:
        """Return median seconds of each name, after a run to warm up."""
        once(Watch(self.device))
        runs: list[dict[str, float]] = []
        spent = 0.0
        while len(runs) < self._most and (len(runs) < 3 or spent < self._seconds):
            if cold:
                self._flush.add_(1.0)
            watch = Watch(self.device)
            once(watch)
            runs.append(watch.seconds)
            spent += sum(watch.seconds.values())
        return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def measure_rates(bench: Bench, dtype: torch.dtype) -> Rates:
    """Return how fast this machine adds large arrays, multiplies matrices, and starts a kernel."""
    device, count = bench.device, 200
    one, other, result = (torch.ones(2**26, device=device) for _ in range(3))
    square = torch.ones(2048, 2048, device=device)
    half, small = square.to(dtype), torch.ones(16, device=device)

    def once(watch: Watch) -> None:
        with watch.on("add"):
            torch.add(one, other, out=result)
        with watch.on("fp32"):
            square @ square
        with watch.on("half"):
            half @ half
        with watch.on("kernels"):
            for _ in range(count):
                small + small

    seconds = bench.median(once)
    return Rates(
        name=device,
        bandwidth=3 * FP32 * len(one) / seconds["add"],
        fp32=2 * 2048**3 / seconds["fp32"],
        half=2 * 2048**3 / seconds["half"],
        kernel=seconds["kernels"] / count,
    )


def open_step(distiller: Any, groups: int, hidden: int, device: str) -> tuple[Explorer, Step]:
    """Return fresh distillers, and a step of 16 rows a group in order."""
    rows = groups * SAMPLES
    explorer = Explorer(ESamp(distiller=distiller), groups, hidden, device)
    return explorer, Step(
        shallow=torch.randn(rows, hidden, device=device),
        deep=torch.randn(rows, hidden, device=device),
        samples=torch.arange(rows, device=device),
        positions=torch.ones(rows, dtype=torch.long, device=device),
        unfinished=torch.ones(rows, dtype=torch.bool, device=device),
        layout=Layout.of([row // SAMPLES for row in range(rows)], groups, device),
    )


def measure_step(bench: Bench, distiller: Any, groups: int, hidden: int) -> dict[str, Any]:
    """Time predict, what else steers (mix), and learn."""
    explorer, step = open_step(distiller, groups, hidden, bench.device)
    predict = explorer.bank.predict

    def once(watch: Watch) -> None:
        explorer.bank.predict = watch.around("predict", predict)  # type: ignore[method-assign]
        with watch.on("steer"):
            explorer.steer(step)
        with watch.on("learn"):
            explorer.learn(step, step.samples)

    seconds = bench.median(once)
    seconds["mix"] = seconds.pop("steer") - seconds["predict"]
    return {"distiller": distiller.name, "groups": groups, "hidden": hidden, "seconds": seconds}


class Engine:
    """Stands for a vLLM model: states that are there already, and a head."""

    def __init__(self, pilot: Pilot, shallow: Tensor, deep: Tensor, head: Tensor) -> None:
        self.esamp_pilot, self.esamp_buffer = pilot, None
        self._shallow, self._deep, self._head = shallow, deep, head

    def __call__(self) -> tuple[Tensor, list[Tensor]]:
        """Return deep, and shallow as auxiliary state."""
        return self._deep, [self._shallow]

    def compute_logits(self, states: Tensor) -> Tensor:
        """Return the head's logits."""
        return linear(states, self._head)


class SteeredEngine(Steered, Engine):  # type: ignore[misc]
    """The same, as the plugin makes it."""


def scheduled(names: list[str], seen: int) -> SimpleNamespace:
    """Return what vLLM's scheduler says: a prompt of three tokens, then one token a step."""
    sampling = SimpleNamespace(
        temperature=0.8, top_k=50, top_p=1.0, min_p=0.0, repetition_penalty=1.0, extra_args=None
    )
    new = [
        SimpleNamespace(
            req_id=name, prompt_len=3, prefill_token_ids=None, num_computed_tokens=0,
            sampling_params=sampling, lora_request=None,
        )
        for name in names
    ]  # fmt: skip
    cached = SimpleNamespace(
        req_ids=names if seen else [],
        resumed_req_ids=set(),
        num_computed_tokens=[seen] * len(names),
        num_output_tokens=[seen - 2] * len(names),
    )
    return SimpleNamespace(
        finished_req_ids=(),
        num_scheduled_tokens=dict.fromkeys(names, 1 if seen else 3),
        scheduled_new_reqs=[] if seen else new,
        scheduled_cached_reqs=cached,
    )


def measure_backends(bench: Bench, groups: int, hidden: int, dtype: torch.dtype) -> dict[str, Any]:
    """Time what each backend does around the recursive distiller, all rows truncated."""
    rows, device = groups * SAMPLES, bench.device
    shallow, deep = (torch.randn(rows, hidden, device=device).to(dtype) for _ in range(2))
    head = torch.full((VOCAB, hidden), 0.01, device=device, dtype=dtype)
    settings = EngineSettings(esamp=ESamp(), max_groups=groups, timing=True)
    pilot = Pilot(settings, hidden, torch.device(device))
    engine = SteeredEngine(pilot, shallow, deep, head)
    names = [f"{sample}_{group}" for group in range(groups) for sample in range(SAMPLES)]
    head_rows = HeadRows(head, 1.0)
    steer, learn = pilot.explorer.steer, pilot.explorer.learn
    keep, fuse = pilot.keep, pilot.fuse
    seen = 0

    def vllm_once(watch: Watch) -> None:
        nonlocal seen
        for name, work in (("steer", steer), ("learn", learn)):
            setattr(pilot.explorer, name, watch.around(name, work))
        for name, work in (("keep", keep), ("fuse", fuse)):
            setattr(pilot, name, watch.around(name, work))
        before = pilot.clock.own_seconds
        pilot.begin(scheduled(names, seen))
        with pilot.expecting(lambda: names):
            logits = engine.compute_logits(engine())
        if pilot.fuses:
            pilot.fuse(logits, scaled=True)
        pilot.end()
        seen = seen + 1 if seen else 3
        watch.seconds["own"] = pilot.clock.own_seconds - before

    def transformers_once(watch: Watch) -> None:
        logits = linear(deep, head)[:, None]
        reference = logits[:, 0].float()
        with watch.on("truncated"):
            both = torch.cat([logits, linear(deep, head)[:, None]], dim=1)
            fused = both[:, 1].to(torch.float32, copy=True)
            fuse_survivors(reference, reference, fused, 0.8)
        with watch.on("few"):
            tokens = reference.topk(FEW, sorted=False).indices
            moves = head_rows.change(shallow.float() - deep.float(), tokens)
            move_survivors(reference, tokens, moves, 0.8)

    vllm_once(Watch(device))  # the prompts
    vllm = bench.median(vllm_once)
    transformers = bench.median(transformers_once)
    fused = vllm["keep"] + vllm["fuse"]
    return {
        "groups": groups,
        "hidden": hidden,
        "seconds": {
            "vllm carry": vllm["own"] - fused - vllm["steer"] - vllm["learn"],
            "vllm truncated": fused,
            "transformers truncated": transformers["truncated"],
            "transformers few": transformers["few"],
        },
    }


def measure_block(bench: Bench, hidden: int, block: int) -> dict[str, Any]:
    """Time learning of one group with many rows, when so many are absorbed at once."""
    explorer, step = open_step(RecursiveDistiller(), SHARED_ROWS // SAMPLES, hidden, bench.device)
    explorer = Explorer(ESamp(), 1, hidden, bench.device)
    step = Step(**vars(step) | {"layout": Layout.of([0] * SHARED_ROWS, 1, bench.device)})
    usual = esamp.recursive.BLOCK

    def once(watch: Watch) -> None:
        explorer.steer(step)
        with watch.on("learn"):
            explorer.learn(step, step.samples)

    try:
        esamp.recursive.BLOCK = block
        seconds = bench.median(once)
    finally:
        esamp.recursive.BLOCK = usual
    return {"hidden": hidden, "block": block, "seconds": seconds}


def measure(bench: Bench, quick: bool) -> dict[str, Any]:
    """Measure everything."""
    name = choose_dtype("auto")
    dtype: torch.dtype = getattr(torch, name)
    grid = GRID[:1] if quick else GRID
    with torch.no_grad():
        return {
            "machine": machine(),
            "engine_size": dtype.itemsize,
            "rates": asdict(measure_rates(bench, dtype)),
            "steps": [measure_step(bench, each, *shape) for each in DISTILLERS for shape in grid],
            "backends": [
                measure_backends(bench, *shape, dtype)
                for shape in BACKEND_GRID[: 1 if quick else None]
            ],
            "blocks": [
                measure_block(bench, hidden, block)
                for hidden in ((576,) if quick else (576, 4096))
                for block in BLOCKS
            ],
        }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one shape: does it run at all?")
    quick = parser.parse_args().quick
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = measure(Bench(device, quick), quick)
    print(json.dumps({"machine": data["machine"], "rates": data["rates"]}, indent=2))
    print("\n\n".join(tables(data)))
    if not quick:
        name = re.sub(r"[^a-z0-9]+", "-", f"{data['machine']['device']}".lower())
        (RESULTS / f"cost-{name}.json").write_text(json.dumps(data, indent=2) + "\n")


if __name__ == "__main__":
    main()
