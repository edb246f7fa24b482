"""A toy language model, and the loop that every backend runs: show, steer, draw, learn, advance."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from esamp.layout import Layout
from esamp.method import Call, Method, Push, Step
from esamp.sampling import Drawn, Uniforms, draw, row_key
from steps import HIDDEN

VOCAB = 12


@dataclass(frozen=True)
class Turn:
    """What was seen in one step."""

    step: Step
    push: Push | None
    reference: Tensor
    """What the head gives for the model's own states."""
    logits: Tensor
    """What the tokens were drawn from."""
    drawn: Drawn

    def row_of(self, sample: int) -> int | None:
        """The row of a sample that draws in this step."""
        drawing = self.step.samples[self.step.unfinished].tolist()
        return self.step.samples.tolist().index(sample) if sample in drawing else None


class ToyModel:
    """States follow a sample's last token, and have noise of their own for each position."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._embedding = torch.randn(VOCAB, HIDDEN, generator=generator)
        self._map = torch.randn(HIDDEN, HIDDEN, generator=generator) / HIDDEN**0.5
        self._head = torch.randn(HIDDEN, VOCAB, generator=generator) / 2
        self._bias = torch.randn(VOCAB, generator=generator) / 2

    def show(self, tokens: Tensor, samples: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.empty(len(tokens), HIDDEN)
        for row, (sample, position) in enumerate(zip(samples, positions, strict=True)):
            noise[row].normal_(
                generator=torch.Generator().manual_seed(int(1000 * sample + position))
            )
        shallow = self._embedding[tokens] + 0.3 * noise
        return shallow, 1 + torch.tanh(shallow @ self._map)

    def head(self, states: Tensor) -> Tensor:
        return states @ self._head + self._bias


MODEL = ToyModel()


class ToyAmateur:
    """A small recurrent language model; finished rows read what they like."""

    def __init__(self, prompts: Sequence[Sequence[int]]) -> None:
        generator = torch.Generator().manual_seed(1)
        self._embedding = torch.randn(VOCAB, 4, generator=generator)
        self._head = torch.randn(4, VOCAB, generator=generator)
        self._memory = torch.stack([self.after(prompt) for prompt in prompts])

    def after(self, tokens: Sequence[int]) -> Tensor:
        """What it remembers of a text."""
        memory = torch.zeros(4)
        for token in tokens:
            memory = 0.5 * memory + self._embedding[token]
        return memory

    def think(self, memory: Tensor) -> Tensor:
        return memory @ self._head

    def logits(self, step: Step) -> Tensor:
        return self.think(self._memory[step.samples])

    def read(self, step: Step, tokens: Tensor) -> None:
        self._memory[step.samples] = 0.5 * self._memory[step.samples] + self._embedding[tokens]


def call_of(groups: Sequence[int], seed: int = 0, temperature: float = 1.0) -> Call:
    """A call in which all samples of a group have one prompt, of one or more tokens."""
    prompts = [(group % VOCAB, group % 3) for group in groups]
    return Call(
        hidden=HIDDEN,
        prompts=prompts,
        groups=groups,
        seed=seed,
        device=torch.device("cpu"),
        temperature=temperature,
        head=MODEL.head,
        norm=toy_norm,
        follow=lambda _name: ToyAmateur(prompts),
    )


def toy_norm(states: Tensor) -> Tensor:
    """What a state would be behind the last block."""
    return 1 + torch.tanh(states)


def decode(
    method: Method,
    groups: Sequence[int] = (0, 0, 0, 1, 1),
    lengths: Sequence[int] = (20, 4, 9, 13, 6),
    arrivals: Sequence[int] = (0, 0, 0, 0, 2),
    seed: int = 0,
) -> list[Turn]:
    """Decode with a method until every sample has its length.

    A sample is in the batch from its arrival on. When it is finished its row is padding at first,
    and leaves with the others' at the next turn that three divides.
    """
    model, call = MODEL, call_of(groups, seed)
    steering = method.start(call)
    uniforms = Uniforms(
        [row_key(seed, prompt, sample) for sample, prompt in enumerate(call.prompts)]
    )
    last = torch.tensor([prompt[-1] for prompt in call.prompts])
    arrival, end = torch.tensor(arrivals), torch.tensor(arrivals) + torch.tensor(lengths)
    left, turns = torch.zeros(len(groups), dtype=torch.bool), []
    for turn in range(int(end.max())):
        if turn % 3 == 0:
            left = end <= turn
        rows = ((arrival <= turn) & ~left).nonzero()[:, 0]
        shallow, deep = model.show(last[rows], rows, turn - arrival[rows])
        step = Step(
            shallow=shallow,
            deep=deep,
            samples=rows,
            positions=turn - arrival[rows],
            unfinished=turn < end[rows],
            layout=Layout.of([groups[row] for row in rows], call.capacity),
        )
        push = steering.steer(step)
        reference = model.head(deep)
        logits = reference if push is None else model.head(push.states)
        logits = steering.reweight(step, logits, reference if method.needs_reference else None)
        drawn = draw(logits, uniforms.next()[rows])
        steering.learn(step, drawn.tokens)
        last[rows] = drawn.tokens
        turns.append(Turn(step, push, reference, logits, drawn))
    return turns


def transcript(turns: Sequence[Turn], sample: int) -> list[int]:
    """The tokens that a sample drew."""
    rows = [(turn, turn.row_of(sample)) for turn in turns]
    return [int(turn.drawn.tokens[row]) for turn, row in rows if row is not None]
