"""Bytes, FLOPs and kernels of each part of a step: the one place of these formulas.

docs/cost.md explains them, `cost.py` measures beside them, `overhead.py` applies them to GPUs;
tests/test_cost_page.py counts the code.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

BF16, FP32 = 2, 4
FEATURES = 272
"""Of the recursive distiller: 256 random ones and the bias, padded to a multiple of 16."""
BLOCK = 64
"""Rows of a group that the recursive distiller absorbs at once."""
WIDTH = 384
"""Inner width of the paper's network."""

Stage = Literal["engine", "carry", "predict", "mix", "learn", "truncated"]
"""When a part runs: `steer` is predict and mix; carry is the backend's own."""

Backend = Literal["transformers", "vllm"]


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How fast a machine is: bytes and FLOPs a second."""

    name: str
    bandwidth: float
    fp32: float
    half: float
    """FLOPs a second in the engine's products, with weights in the engine's type."""
    kernel: float = 0.0
    """Seconds that a kernel takes beside its bytes and FLOPs."""


@dataclass(frozen=True)
class Part:
    """Something that runs after what stands before it."""

    name: str
    stage: Stage
    bytes: float
    flops: float = 0.0
    kernels: int = 0
    half: bool = False
    """Whether its products are in the engine's type."""

    def seconds(self, rates: Rates) -> float:
        """Return bytes at full bandwidth or FLOPs at peak, what is longer; and its kernels."""
        peak = rates.half if self.half else rates.fp32
        return max(self.bytes / rates.bandwidth, self.flops / peak) + self.kernels * rates.kernel


def total(parts: Iterable[Part], rates: Rates) -> float:
    """Return seconds of parts one after another."""
    return sum(part.seconds(rates) for part in parts)


def carry(backend: Backend, hidden: int, rows: int, size: int = BF16) -> Part:
    """Return what brings both states to the distiller and the pushed one to the head.

    vLLM, in numbers of the engine's type a state's entry: sum of the first block's output and its
    residual stream 3, concat 4, gather 2, split 4. Both: two states to fp32 and one back, unless
    the engine's type is fp32.
    """
    converted = 0 if size == FP32 else 3 * (size + FP32)
    moved = 13 * size if backend == "vllm" else 0
    kernels = {"transformers": 3 if converted else 0, "vllm": 18}
    return Part("carry", "carry", (moved + converted) * rows * hidden, kernels=kernels[backend])


def mix(hidden: int, rows: int) -> Part:
    """Return what follows predict; in passes: residual 3, push 5, three norms 3, choice 3."""
    return Part("mix", "mix", 14 * FP32 * rows * hidden, kernels=20)


def mean(hidden: int, rows: int, groups: int) -> list[Part]:
    """Return the running mean: a row of numbers per group."""
    state, states = FP32 * groups * hidden, FP32 * rows * hidden
    return [
        Part("predict", "predict", 5 * state + states, kernels=6),
        mix(hidden, rows),
        Part("learn", "learn", 4 * state + 5 * states, kernels=18),
    ]


def recursive(hidden: int, rows: int, groups: int, block: int = BLOCK) -> list[Part]:
    """Return ridge regression: B and P are updated a block; learn has φ and error from predict."""
    width = FEATURES
    weights, inverse = FP32 * groups * width * hidden, FP32 * groups * width * width
    states, projection = FP32 * rows * hidden, FP32 * hidden * FEATURES
    taken = min(block, -(-rows // groups))
    blocks = -(-rows // (groups * block))
    project = 2 * rows * hidden * FEATURES
    through = 2 * rows * width * hidden
    again = through * (blocks - 1) / blocks
    solve = 6 * rows * taken * width + 4 * rows * width * width
    absorb = blocks * (2 * weights + 3 * inverse) + (blocks - 1) * weights + 4 * states
    return [
        Part("features", "predict", 6 * states + projection, project, kernels=9),
        Part("predict", "predict", weights + states, through, kernels=3),
        mix(hidden, rows),
        Part("pack and mask", "learn", 5 * states, kernels=13),
        Part("absorb", "learn", absorb, through + again + solve, kernels=14 * blocks),
    ]


def mlp(hidden: int, rows: int, groups: int) -> list[Part]:
    """Return the paper's network; each operation of Adam passes over all weights.

    Learning, in passes: forward 1, gradients 1 of weights and 2/3 of states, gathering them 6,
    norm, clip and Adam 29.
    """
    weights, states = FP32 * groups * network(hidden), FP32 * rows * hidden
    through = 2 * rows * network(hidden)
    learn = (37 + 2 / 3) * weights + 50 * states
    return [
        Part("predict", "predict", weights + 16 * states, through, kernels=12),
        mix(hidden, rows),
        Part("learn", "learn", learn, (2 + 2 / 3) * through, kernels=102),
    ]


PARTS: Mapping[str, Callable[[int, int, int], list[Part]]] = {
    "mean": mean,
    "recursive": recursive,
    "mlp": mlp,
}
"""Steer and learn of each distiller, from hidden, rows and groups."""


def truncated(backend: Backend, hidden: int, vocab: int, rows: int, size: int = BF16) -> list[Part]:
    """Return what `truncation="reference"` adds: the head again, and fusion over the vocabulary.

    Fusion, in bytes per row and token. Transformers: concat and one more copy to fp32, difference
    12, by temperature 8, sum 12, what is cut 5, choice 13. vLLM: two conversions to fp32,
    difference 12, by temperature 8, sum 12, what is finite 25, choice of rows 2, choice 13.
    """
    head = Part(
        "second projection",
        "truncated",
        size * (hidden * vocab + rows * vocab),
        2 * rows * hidden * vocab,
        kernels=1,
        half=True,
    )
    if backend == "transformers":
        moved, kernels = 4 * size + (size + FP32) + 50, 7
    else:
        converted = 0 if size == FP32 else 2
        moved, kernels = converted * (size + FP32) + 72, 9 + converted
    return [head, Part("survivors", "truncated", moved * rows * vocab, kernels=kernels)]


def few(hidden: int, vocab: int, rows: int, tokens: int, size: int = BF16) -> list[Part]:
    """Return what takes the place of both on Transformers where few tokens can survive.

    Their rows of the head are gathered, converted unless they are fp32, and multiplied; over the
    vocabulary stay the choice of tokens, 4 bytes read, and their move, a copy.
    """
    gathered = rows * tokens * hidden
    converted = 0 if size == FP32 else 1
    moved = 2 * size + converted * (size + FP32) + FP32
    return [
        Part("rows of the head", "truncated", moved * gathered, 2 * gathered, 3 + converted),
        Part("survivors", "truncated", 3 * FP32 * rows * vocab, kernels=3),
    ]


def network(hidden: int) -> int:
    """Return the weights of the paper's network."""
    return 2 * 3 * hidden * WIDTH


def state_bytes(distiller: str, hidden: int) -> int:
    """Return the state of a group, as the package's `state_bytes` does."""
    width = FEATURES
    numbers = {
        "mean": hidden + 1,
        "recursive": width * hidden + width * width,
        "mlp": 4 * network(hidden) + 1,
    }
    return FP32 * numbers[distiller]


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Write a Markdown table."""
    head = list(head)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
