"""Print the tables of docs/overhead.md: what ESamp costs within vLLM on GPUs, on paper.

python benchmarks/overhead.py

Everything here follows from bytes and FLOPs (parts.py); nothing is measured. A GB is 10⁹ bytes.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from parts import BF16, FEATURES, FP32, PARTS, Part, Rates, carry, state_bytes, table, total
from parts import truncated as second_projection

CONTEXT = 1024
"""Tokens that a row attends to."""
MAX_GROUPS = 256
KV_SHARE = 0.92
"""Part of the card that vLLM uses: its default of `gpu_memory_utilization`."""
RESERVE = 1e9
"""Assumed: activations, graphs and workspace."""
QUEUED, EXPOSED = 2e-6, 5e-6
"""Assumed seconds a kernel: its least time when it is queued, and when the device waits for it."""
GOAL, GOAL_HIDDEN = 0.02, 0.005


@dataclass(frozen=True, kw_only=True)
class Card(Rates):
    """Peaks of a GPU, from the vendor's data sheet; dense, tensor cores with fp32 accumulate."""

    memory: float


@dataclass(frozen=True, kw_only=True)
class Model:
    """Sizes of a bf16 decoder with a gated MLP, grouped heads and a head of its own."""

    name: str
    hidden: int
    layers: int
    vocab: int
    heads: int
    kv_heads: int
    head_size: int
    inner: int

    @property
    def head(self) -> int:
        """Weights of the LM head, and of the embedding."""
        return self.vocab * self.hidden

    @property
    def read(self) -> int:
        """Weights that a step reads: all but the embedding, of which it reads a few rows."""
        attention = 2 * self.hidden * self.head_size * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.inner) + self.head

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return BF16 * (self.read + self.head)

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values of a token."""
        return BF16 * 2 * self.layers * self.kv_heads * self.head_size


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Prompts and samples of each. Rows stand in groups, one a prompt unless said otherwise."""

    prompts: int
    samples: int

    @property
    def name(self) -> str:
        """Prompts x samples."""
        return f"{self.prompts}x{self.samples}"

    @property
    def rows(self) -> int:
        """Rows of a step."""
        return self.prompts * self.samples


CARDS = (
    Card(name="4090", bandwidth=1.008e12, half=165e12, fp32=82.6e12, memory=24 * 2**30),
    Card(name="H100", bandwidth=3.35e12, half=989e12, fp32=67e12, memory=80 * 2**30),
)
H200 = Card(name="H200", bandwidth=4.8e12, half=989e12, fp32=67e12, memory=141e9)
"""The card that gpu.py has measured on; the same processor as the H100."""
QWEN2 = Model(
    name="Qwen2.5-7B", hidden=3584, layers=28, vocab=152064, heads=28, kv_heads=4, head_size=128,
    inner=18944,
)  # fmt: skip
QWEN3 = Model(
    name="Qwen3-8B", hidden=4096, layers=36, vocab=151936, heads=32, kv_heads=8, head_size=128,
    inner=12288,
)  # fmt: skip
MODELS = (QWEN2, QWEN3)
SHAPES = (
    Shape(prompts=1, samples=1),
    Shape(prompts=32, samples=1),
    Shape(prompts=32, samples=16),
)


def engine(model: Model, rows: int) -> list[Part]:
    """Return a decode step of the engine: all products with weights, and attention."""
    read = BF16 * (model.read + rows * model.vocab)
    keys = 4 * rows * CONTEXT * model.layers * model.heads * model.head_size
    return [
        Part("weights", "engine", read, 2 * rows * model.read, half=True),
        Part("attention", "engine", rows * CONTEXT * model.kv_bytes, keys, half=True),
    ]


def own(distiller: str, hidden: int, rows: int, groups: int) -> list[Part]:
    """Return all parts of ESamp within vLLM, without truncation."""
    return [carry("vllm", hidden, rows), *PARTS[distiller](hidden, rows, groups)]


def least(hidden: int, rows: int, groups: int) -> list[Part]:
    """Return what no recursive step can go below: B and P read twice, written once; no launches.

    Both states and the pushed one pass once, deep and the residual once more to be learnt from.
    """
    state = FP32 * groups * FEATURES * (hidden + FEATURES)
    states = FP32 * rows * hidden
    return [Part("least", "learn", 3 * state + 3.5 * states + FP32 * hidden * FEATURES)]


def share(parts: Sequence[Part], model: Model, rows: int, card: Card) -> tuple[float, float]:
    """Return own time over the engine's step: with queued kernels, and with exposed launches."""
    step = total(engine(model, rows), card)
    queued, exposed = (replace(card, kernel=each) for each in (QUEUED, EXPOSED))
    return total(parts, queued) / step, total(parts, exposed) / step


def room(model: Model, card: Card, state: float) -> float:
    """Return bytes left for the cache beside weights, state and reserve."""
    return KV_SHARE * card.memory - model.weight_bytes - state - RESERVE


def fits(model: Model, card: Card, rows: int, state: float) -> bool:
    """Whether the cache of all rows fits at once."""
    return rows * CONTEXT * model.kv_bytes <= room(model, card, state)


def percent(shares: tuple[float, float], goal: float) -> str:
    """Write a range in percent; `!` where all of it is above the goal, `?` where a part is."""
    low, high = (
        f"{100 * each:.0f}" if each >= 0.0995 else f"{100 * each:.{1 if each >= 0.00095 else 2}f}"
        for each in shares
    )
    mark = " !" if shares[0] > goal else " ?" if shares[1] > goal else ""
    return (low if low == high else f"{low}–{high}") + mark


def steps_table() -> str:
    """Write the engine's step."""
    rows = []
    for model, card, shape in product(MODELS, CARDS, SHAPES):
        times = [part.seconds(card) for part in engine(model, shape.rows)]
        numbers = [1e3 * each for each in (*times, sum(times))]
        numbers.append(shape.rows * CONTEXT * model.kv_bytes / 1e9)
        answer = "yes" if fits(model, card, shape.rows, 0) else "no"
        rows.append([model.name, card.name, shape.name, *(f"{n:.1f}" for n in numbers), answer])
    head = ["weights, ms", "attention, ms", "step, ms", "cache, GB", "fits"]
    return table(["model", "card", "shape", *head], rows)


def parts_table() -> str:
    """Write the recursive distiller's parts, in microseconds."""
    model = QWEN3
    cells = list(product(CARDS, SHAPES))
    columns = [
        [(part, card) for part in own("recursive", model.hidden, shape.rows, shape.prompts)]
        for card, shape in cells
    ]
    rows = [
        [line[0][0].name, f"{line[0][0].kernels}"]
        + [f"{1e6 * part.seconds(card):.1f}" for part, card in line]
        for line in zip(*columns, strict=True)
    ]
    sums = [sum(part.seconds(card) for part, card in column) for column in columns]
    kernels = sum(part.kernels for part, _ in columns[0])
    rows.append(["all", f"{kernels}"] + [f"{1e6 * each:.0f}" for each in sums])
    rows.append(["all, 2 µs a kernel", ""] + [f"{1e6 * (s + kernels * QUEUED):.0f}" for s in sums])
    return table(["part", "kernels"] + [f"{card.name} {shape.name}" for card, shape in cells], rows)


def shares_table() -> str:
    """Write the share of each distiller, one group a prompt, not overlapped."""
    rows = []
    for model, card, shape in product(MODELS, CARDS, SHAPES):
        cells = []
        for name in PARTS:
            groups = shape.prompts if name == "mlp" else MAX_GROUPS
            state = groups * state_bytes(name, model.hidden)
            parts = own(name, model.hidden, shape.rows, shape.prompts)
            cell = percent(share(parts, model, shape.rows, card), GOAL)
            cells.append(cell if fits(model, card, shape.rows, state) else f"({cell})")
        rows.append([model.name, card.name, shape.name, *cells])
    return table(["model", "card", "shape", "mean", "recursive", "mlp"], rows)


def variants_table() -> str:
    """Write shares of what is not the default."""
    rows = []
    for model, card, shape in product(MODELS, CARDS, SHAPES):
        count = shape.rows
        usual = own("recursive", model.hidden, count, shape.prompts)
        arms: list[tuple[list[Part], float]] = [
            (least(model.hidden, count, shape.prompts), GOAL),
            ([part for part in usual if part.stage != "learn"], GOAL_HIDDEN),
            (usual + second_projection("vllm", model.hidden, model.vocab, count), GOAL),
            (own("recursive", model.hidden, count, 1), GOAL),
            (own("mlp", model.hidden, count, 1), GOAL),
        ]
        cells = [percent(share(parts, model, count, card), goal) for parts, goal in arms]
        rows.append([model.name, card.name, shape.name, *cells])
    names = ["least", "learning hidden", "truncated", "shared", "mlp, shared"]
    return table(["model", "card", "shape", *names], rows)


def state_table() -> str:
    """Write bytes of state."""
    rows = []
    for name, model in product(PARTS, MODELS):
        size = state_bytes(name, model.hidden)
        rows.append([name, model.name, f"{size / 1e6:.2f}"])
        rows[-1] += [f"{groups * size / 1e9:.2f}" for groups in (32, MAX_GROUPS)]
    head = ["distiller", "model", "MB a group", "GB of 32 groups", f"GB of {MAX_GROUPS} groups"]
    return table(head, rows)


def room_table() -> str:
    """Write how many rows of the context fit beside weights and state."""
    arms = (("recursive", MAX_GROUPS), ("recursive", 32), ("mlp", 32), ("mlp", 1))
    rows = []
    for model, card in product(MODELS, CARDS):
        states = [0, *(groups * state_bytes(name, model.hidden) for name, groups in arms)]
        fit = [max(room(model, card, state), 0) // (CONTEXT * model.kv_bytes) for state in states]
        sizes = [f"{model.weight_bytes / 1e9:.1f}", f"{model.kv_bytes / 1e3:.0f}"]
        sizes += [f"{room(model, card, 0) / 1e9:.1f}"]
        rows.append([model.name, card.name, *sizes, *(f"{each:.0f}" for each in fit)])
    head = ["model", "card", "weights, GB", "cache, kB a token", "room, GB", "rows, plain"]
    return table(head + [f"{name}, {groups}" for name, groups in arms], rows)


def paper_table() -> str:
    """Write the paper's figures (tokens a second, RTX 4090, Qwen3-8B) beside ours."""
    card, model = CARDS[0], QWEN3
    figures = ((55.1, 54.9, "0.3 %"), (1215.2, 1193.2, "1.81 %"), (4557.7, 4364.0, "4.25 %"))
    rows = []
    for shape, (plain, steered, loss) in zip(SHAPES, figures, strict=True):
        step = total(engine(model, shape.rows), card)
        steps = [f"{1e3 * shape.rows / plain:.1f}", f"{1e3 * step:.1f}"]
        shared = percent(
            share(own("mlp", model.hidden, shape.rows, 1), model, shape.rows, card), GOAL
        )
        rows.append([shape.name, f"{plain}", f"{steered}", loss, *steps, shared])
    head = ["shape", "plain", "ESamp", "loss", "its step, ms", "step on paper, ms", "mlp, shared"]
    return table(head, rows)


def tables() -> list[str]:
    """Return the tables in the page's order."""
    small = [state_table(), room_table(), paper_table()]
    return [steps_table(), parts_table(), shares_table(), variants_table(), *small]


if __name__ == "__main__":
    sys.stdout.write("\n\n".join(tables()) + "\n")
