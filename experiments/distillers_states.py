"""States of real decoding, on disk: what experiments/distillers.py replays.

Plain sampling at temperature 1 with the project's own Transformers backend. A prompt is one file:
the states of its steered tokens by step and sample, and the pairs of its prefill.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from esamp import Vanilla
from esamp.backends.transformers.generator import TransformersGenerator
from esamp.backends.transformers.states import find_blocks, first_tensor
from esamp.evals.tasks import find_task
from esamp.generation import Request, Sampling
from esamp.method import Call, Steering, Step

KINDS = ("embedding", "first", "middle", "deep")
SAMPLES, TOGETHER = 16, 4
"""Samples of a prompt, and prompts that are decoded in one call."""


@dataclass(frozen=True)
class Source:
    """Prompts of one kind."""

    task: str
    prompts: int
    steps: int
    """Steered tokens of a sample, at most; the first token comes before them."""


SOURCES = {
    "stories": Source("open-ended", 8, 64),
    "gcd": Source("reasoning-gym:gcd", 8, 64),
}


class Tape(Steering):
    """Plain decoding that keeps what the model shows.

    A `Step` has the states of one block and of the head; hooks of our own bring the others. They
    have run by the time the head asks for its states. A Llama's final norm is `owner.norm`.
    """

    def __init__(self, model: Any, steps: int) -> None:
        blocks, owner = find_blocks(model)
        modules: dict[str, nn.Module] = {
            "embedding": model.get_input_embeddings(),
            "first": blocks[0],
            "middle": blocks[len(blocks) // 2 - 1],
            "deep": owner.norm,
        }
        self._steps = steps
        self._shown: dict[str, Tensor] = {}
        self._handles = [
            module.register_forward_hook(partial(self._note, name))
            for name, module in modules.items()
        ]

    def _note(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        self._shown[name] = first_tensor(output)

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()

    def begin(self, call: Call) -> None:
        """Make room for one call, sample by sample."""
        samples = len(call.groups)
        self._call = call
        shape = (samples, self._steps, call.hidden)
        self.states = {name: torch.zeros(shape, dtype=torch.float16) for name in KINDS}
        self.taught = torch.zeros(samples, self._steps, dtype=torch.bool)
        self.prefill: dict[int, dict[str, Tensor]] = {}

    def steer(self, step: Step) -> None:
        """Keep the states of the steered rows; in the first step, those of the prompt."""
        # A prompt is run once for all its samples, so there are fewer rows of it than in the step.
        same = (step.deep[:, None] == self._shown["deep"][:, -1].float()).all(dim=-1)
        if not bool(same.any(dim=-1).all()):
            raise RuntimeError("the last norm does not give what the head reads: record a Llama")
        row_of = same.int().argmax(dim=-1)
        if int(step.positions[0]) == 0:
            for sample in range(0, len(self._call.groups), SAMPLES):
                length = len(self._call.prompts[sample])
                self.prefill[sample] = {
                    name: halve(states[row_of[sample], -length:])
                    for name, states in self._shown.items()
                }
            return
        rows = step.unfinished
        samples, at = step.samples[rows], step.positions[rows] - 1
        self.taught[samples, at] = True
        for name, states in self._shown.items():
            self.states[name][samples, at] = halve(states[row_of, -1][rows])


def halve(states: Tensor) -> Tensor:
    """Return states in half precision.

    Raises:
        OverflowError: They do not fit.
    """
    half = states.to(torch.float16)
    if not bool(half.isfinite().all()):
        raise OverflowError(f"a state of size {states.abs().max():.3g} is too large for float16")
    return half


@dataclass(frozen=True, kw_only=True)
class Recorder(Vanilla):
    """Vanilla sampling in front of a tape."""

    tape: Tape
    name: str = "recorder"

    def start(self, call: Call) -> Tape:
        """Return the tape, emptied."""
        self.tape.begin(call)
        return self.tape


def record(out: Path, name: str) -> None:
    """Decode the prompts of a source that are not on disk yet."""
    source = SOURCES[name]
    items = find_task(source.task).load(None, source.prompts, 0)
    paths = [out / f"{name}-{number:02}.pt" for number in range(len(items))]
    out.mkdir(parents=True, exist_ok=True)
    if all(path.exists() for path in paths):
        return
    generator = TransformersGenerator.load()
    tape = Tape(generator.model, source.steps)
    sampling = Sampling(temperature=1.0, max_new_tokens=source.steps + 1)
    for first in range(0, len(items), TOGETHER):
        here = range(first, min(first + TOGETHER, len(items)))
        if all(paths[number].exists() for number in here):
            continue
        prompts = [items[number].prompt for number in here]
        request = Request(prompts=prompts, samples=SAMPLES, sampling=sampling, seed=0)
        stats = generator.generate(request, Recorder(tape=tape)).stats
        for place, number in enumerate(here):
            save(tape, place * SAMPLES, paths[number])
        print(f"{name} {first}: {stats.tokens} tokens, {stats.seconds:.0f} s", flush=True)
    tape.remove()


def save(tape: Tape, first: int, path: Path) -> None:
    """Write one prompt's samples, step by step, whole or not at all."""
    samples = slice(first, first + SAMPLES)
    record = {
        "states": {
            name: states[samples].transpose(0, 1).clone() for name, states in tape.states.items()
        },
        "taught": tape.taught[samples].T.clone(),
        "prefill": tape.prefill[first],
    }
    draft = path.with_suffix(".part")
    torch.save(record, draft)
    draft.replace(path)


@dataclass(frozen=True)
class Recording:
    """States of several prompts, each a group."""

    states: Mapping[str, Float[Tensor, "groups steps rows hidden"]]
    taught: Bool[Tensor, "groups steps rows"]
    prefill: Sequence[Mapping[str, Float[Tensor, "tokens hidden"]]]

    @classmethod
    def load(cls, out: Path, name: str) -> "Recording":
        """Read all prompts of a source, as fp32.

        Raises:
            FileNotFoundError: A prompt has not been recorded.
        """
        numbers = range(SOURCES[name].prompts)
        found = [torch.load(out / f"{name}-{number:02}.pt") for number in numbers]
        return cls(
            {kind: torch.stack([each["states"][kind] for each in found]).float() for kind in KINDS},
            torch.stack([each["taught"] for each in found]),
            [{kind: each["prefill"][kind].float() for kind in KINDS} for each in found],
        )

    def select(self, groups: Sequence[int]) -> "Recording":
        """Return some of the groups."""
        return Recording(
            {kind: states[list(groups)] for kind, states in self.states.items()},
            self.taught[list(groups)],
            [self.prefill[group] for group in groups],
        )

    def chained(self) -> "Recording":
        """Return all groups as one that goes from prompt to prompt, step after step."""
        return Recording(
            {kind: states.flatten(0, 1)[None] for kind, states in self.states.items()},
            self.taught.flatten(0, 1)[None],
            self.prefill[:1],
        )

    def rows(self, kind: str) -> Float[Tensor, "rows hidden"]:
        """Return the states of all taught rows, in no order that matters."""
        return self.states[kind][self.taught]
