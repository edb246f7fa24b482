"""Measure what ESamp costs an engine on a GPU whose forward pass is a CUDA graph.

    python benchmarks/gpu.py [--rounds 9] [--context 1024]

The engine has the sizes of Qwen3-8B with random weights: every product with weights, attention over
a cache, the head, and a draw; like vLLM it replays all but the head and the draw. The plugin's own
code is around it. Arms alternate within a process. `waits` is an engine that reads each token
before it goes on; otherwise the host is ahead of the device, as in asynchronous scheduling. Writes
benchmarks/results/gpu-<device>.json.
"""

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from cost import scheduled
from overhead import EXPOSED, H200, QUEUED, QWEN3, Model, Shape, engine, own
from parts import table, total
from torch import Tensor
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

from esamp import ESamp, MeanDistiller, MLPDistiller, RecursiveDistiller
from esamp.backends.vllm.model import Steered
from esamp.backends.vllm.parameters import EngineSettings
from esamp.backends.vllm.pilot import Pilot
from esamp.cli.console import machine

RESULTS = Path(__file__).parent / "results"
SHAPES = (
    Shape(prompts=1, samples=1),
    Shape(prompts=32, samples=1),
    Shape(prompts=8, samples=16),
    Shape(prompts=32, samples=16),
)
DISTILLERS = (MeanDistiller(), RecursiveDistiller(), MLPDistiller())
MOST_NETWORKS = 8
"""Groups of the paper's network that are measured; each is 151 MB."""
ROUND_SECONDS = 0.15
DEVICE = torch.device("cuda")


def random(*shape: int, scale: float = 1.0) -> Tensor:
    """Return random bf16 numbers."""
    return torch.randn(*shape, device=DEVICE, dtype=torch.bfloat16).mul_(scale)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Of a decoder: four matrices a layer, and the head."""

    layers: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]]
    head: Tensor

    @classmethod
    def of(cls, model: Model) -> "Weights":
        """Draw the weights of a model."""

        def matrix(out: int, inner: int) -> Tensor:
            return random(out, inner, scale=inner**-0.5)

        heads, key_heads = model.heads * model.head_size, model.kv_heads * model.head_size
        return cls(
            layers=[
                (
                    matrix(heads + 2 * key_heads, model.hidden),
                    matrix(model.hidden, heads),
                    matrix(2 * model.inner, model.hidden),
                    matrix(model.hidden, model.inner),
                )
                for _ in range(model.layers)
            ],
            head=matrix(model.vocab, model.hidden),
        )


class Engine:
    """A decoder that reads one token a row; its forward pass is recorded once and replayed."""

    def __init__(self, model: Model, weights: Weights, rows: int, context: int) -> None:
        self._model, self._weights, self._rows = model, weights, rows
        # One layer's cache stands for all: unless it fits the second-level cache, bytes are bytes.
        shape = (rows, model.kv_heads, context, model.head_size)
        self._keys, self._values = random(*shape), random(*shape)
        self._states = random(rows, model.hidden)
        self._noise = torch.empty(rows, model.vocab, device=DEVICE)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            self._forward()
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._deep, self._shallow = self._forward()

    def __call__(self) -> tuple[Tensor, list[Tensor]]:
        """Return deep, and shallow as auxiliary state."""
        self._graph.replay()
        return self._deep, [self._shallow]

    def compute_logits(self, states: Tensor) -> Tensor:
        """Return the head's logits."""
        return linear(states, self._weights.head)

    def draw(self, logits: Tensor) -> Tensor:
        """Draw a token a row."""
        probabilities = (logits.float() / 0.8).softmax(dim=-1)
        return (probabilities / self._noise.exponential_()).argmax(dim=-1)

    def _forward(self) -> tuple[Tensor, Tensor]:
        model, states, shallow = self._model, self._states, None
        width = model.heads * model.head_size
        for query_key_value, out, gate_up, down in self._weights.layers:
            # Heads that share keys are rows of one query: nothing is copied.
            queries = linear(_norm(states), query_key_value)[:, :width]
            queries = queries.view(self._rows, model.kv_heads, -1, model.head_size)
            read = scaled_dot_product_attention(queries, self._keys, self._values)
            states = states + linear(read.reshape(self._rows, width), out)
            gate, up = linear(_norm(states), gate_up).chunk(2, dim=-1)
            states = states + linear(silu(gate) * up, down)
            shallow = states.clone() if shallow is None else shallow
        assert shallow is not None, "there are layers"
        return _norm(states), shallow


def _norm(states: Tensor) -> Tensor:
    return rms_norm(states, states.shape[-1:])


class SteeredEngine(Steered, Engine):  # type: ignore[misc]
    """The same, as the plugin makes it."""


Steps = Callable[[int, bool], float]
"""Runs so many steps, waiting for each token or not, and returns seconds a step."""


def plain_steps(engine: Engine) -> Steps:
    """Return plain decoding."""

    def step() -> Tensor:
        (deep, _) = engine()
        return engine.draw(engine.compute_logits(deep))

    return lambda count, waits: timed(step, count, waits)


def steered_steps(engine: SteeredEngine, pilot: Pilot, shape: Shape) -> Steps:
    """Return decoding with the plugin around it."""
    names = [
        f"{sample}_{group}" for group in range(shape.prompts) for sample in range(shape.samples)
    ]
    seen = 0

    def step() -> Tensor:
        nonlocal seen
        # The plugin belongs to one arm at a time.
        engine.esamp_pilot = pilot
        output = scheduled(names, seen)
        for new in output.scheduled_new_reqs:
            new.sampling_params.top_k = 0
        pilot.begin(output)
        with pilot.expecting(lambda: names):
            logits = engine.compute_logits(engine())
        tokens = engine.draw(logits)
        pilot.end()
        seen = seen + 1 if seen else 3
        return tokens

    return lambda count, waits: timed(step, count, waits)


def timed(step: Callable[[], Tensor], count: int, waits: bool) -> float:
    """Return seconds a step."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        tokens = step()
        if waits:
            tokens.tolist()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / count


def open_pilots(model: Model, shape: Shape) -> dict[tuple[str, bool], Pilot]:
    """Return the plugin with each distiller, launching kernels and replaying graphs."""
    pilots = {}
    for distiller in DISTILLERS:
        for capture in (False, True):
            if distiller.name == "mlp" and shape.prompts > MOST_NETWORKS:
                continue
            esamp = ESamp(distiller=distiller, capture=capture)
            settings = EngineSettings(esamp=esamp, max_groups=shape.prompts)
            pilots[distiller.name, capture] = Pilot(settings, model.hidden, DEVICE)
    return pilots


def measure_shape(
    model: Model, weights: Weights, shape: Shape, context: int, rounds: int
) -> list[dict[str, Any]]:
    """Time all arms in turn."""
    engine = SteeredEngine(model, weights, shape.rows, context)
    engine.esamp_buffer = None
    pilots = open_pilots(model, shape)
    arms: dict[tuple[str, bool], Steps] = {("plain", False): plain_steps(Plain(engine))}
    for arm, pilot in pilots.items():
        arms[arm] = steered_steps(engine, pilot, shape)
    for run in arms.values():
        run(8, True)
    count = max(4, int(ROUND_SECONDS / arms["plain", False](8, False)))
    results = []
    for waits in (False, True):
        seconds: dict[tuple[str, bool], list[float]] = {arm: [] for arm in arms}
        for _ in range(rounds):
            for arm, run in arms.items():
                seconds[arm].append(run(count, waits))
        plain = seconds["plain", False]
        for (distiller_name, capture), times in seconds.items():
            losses = [mine / base - 1 for mine, base in zip(times, plain, strict=True)]
            results.append(
                {
                    "prompts": shape.prompts,
                    "samples": shape.samples,
                    "waits": waits,
                    "distiller": distiller_name,
                    "capture": capture,
                    "milliseconds": 1e3 * statistics.median(times),
                    "losses": sorted(losses),
                }
            )
    for arm, pilot in pilots.items():
        stats = pilot.stats()
        if stats["faults"] or stats["rows_fallback"]:
            raise SystemExit(f"{arm}: {stats}")
    return results


class Plain:
    """The engine as it is without the plugin."""

    def __init__(self, engine: SteeredEngine) -> None:
        self._engine = engine
        self.draw = engine.draw

    def __call__(self) -> tuple[Tensor, list[Tensor]]:
        """Return what the engine gives."""
        return Engine.__call__(self._engine)

    def compute_logits(self, states: Tensor) -> Tensor:
        """Return the head's logits."""
        return Engine.compute_logits(self._engine, states)


def losses_table(data: dict[str, Any]) -> str:
    """Write each arm's loss in percent: median and range over rounds."""
    arms = list(dict.fromkeys((each["distiller"], each["capture"]) for each in data["steps"]))
    rows = []
    for shape, here in by_shape(data).items():
        for waits in (False, True):
            row = [shape.name, "waits" if waits else "is ahead"]
            row.append(f"{here['plain', False, waits]['milliseconds']:.1f}")
            for arm in arms[1:]:
                found = here.get((*arm, waits))
                row.append("" if found is None else _loss(found["losses"]))
            rows.append(row)
    head = [f"{name}, {'captured' if capture else 'launched'}" for name, capture in arms[1:]]
    return table(["shape", "host", "step, ms", *head], rows)


def paper_table(data: dict[str, Any]) -> str:
    """Write microseconds of a step of the recursive distiller beside those on paper."""
    rows = []
    for shape, here in by_shape(data).items():
        on_paper = own("recursive", QWEN3.hidden, shape.rows, shape.prompts)
        row = [shape.name, f"{1e3 * total(engine(QWEN3, shape.rows), H200):.1f}"]
        row.append(f"{here['plain', False, False]['milliseconds']:.1f}")
        for kernel, waits in ((QUEUED, False), (EXPOSED, True)):
            row.append(f"{1e6 * total(on_paper, replace(H200, kernel=kernel)):.0f}")
            for capture in (False, True):
                found = here["recursive", capture, waits]
                base = here["plain", False, waits]["milliseconds"]
                row.append(f"{1e3 * statistics.median(found['losses']) * base:.0f}")
        rows.append(row)
    head = ["shape", "step on paper, ms", "step, ms"]
    for host, paper in (("ahead", "queued"), ("waits", "exposed")):
        head += [f"{paper}, on paper", f"{host}, launched", f"{host}, captured"]
    return table(head, rows)


def by_shape(data: dict[str, Any]) -> dict[Shape, dict[tuple[str, bool, bool], dict[str, Any]]]:
    """Return results by shape, then by distiller, capture, and whether the host waits."""
    found: dict[Shape, dict[tuple[str, bool, bool], dict[str, Any]]] = {}
    for each in data["steps"]:
        here = found.setdefault(Shape(prompts=each["prompts"], samples=each["samples"]), {})
        here[each["distiller"], each["capture"], each["waits"]] = each
    return found


def _loss(losses: list[float]) -> str:
    low, middle, high = losses[0], statistics.median(losses), losses[-1]
    return f"{100 * middle:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--context", type=int, default=1024)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no GPU here: on a CPU, python benchmarks/cost.py measures the parts")
    with torch.inference_mode():
        weights = Weights.of(QWEN3)
        steps = [
            each
            for shape in SHAPES
            for each in measure_shape(QWEN3, weights, shape, given.context, given.rounds)
        ]
    data = {"machine": machine(), "model": QWEN3.name, "context": given.context, "steps": steps}
    sys.stdout.write(losses_table(data) + "\n\n" + paper_table(data) + "\n")
    name = re.sub(r"[^a-z0-9]+", "-", f"{data['machine']['device']}".lower())
    (RESULTS / f"gpu-{name}.json").write_text(json.dumps(data, indent=2) + "\n")


if __name__ == "__main__":
    main()
