"""The protocol is wide enough: three methods that are nothing like ESamp, sketched and run."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch.nn.functional import cross_entropy

from esamp.method import Call, Method, Steering, Vanilla
from steps import HIDDEN, random_step
from toy import VOCAB, call_of, decode, transcript


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """The settings of a method, of which only the steering matters here."""

    start: Callable[[Call], Steering]
    needs_reference: bool = False
    name: str = "sketch"
    scope: str = "prompt"
    truncation: str = "reference"
    layer: int = 1
    inert: bool = False


def test_steering_as_it_stands_is_plain_decoding():
    steering, step = Vanilla().start(call_of([0, 0])), random_step([0, 0])
    logits = torch.randn(2, VOCAB)
    assert steering.steer(step) is None
    assert torch.equal(steering.reweight(step, logits, None), logits)
    assert Vanilla().inert


@pytest.mark.parametrize(("groups", "capacity"), [((), 0), ((0, 0), 1), ((2, 0), 3)])
def test_a_calls_capacity_holds_its_groups(groups, capacity):
    assert call_of(groups).capacity == capacity


# -- FIRE: the first token hot, the rest as ever (arXiv 2410.21236) ------------------------------


class Fire(Steering):
    def __init__(self, heat):
        self.heat = heat

    def reweight(self, step, logits, reference):
        return torch.where(step.positions[:, None] == 0, logits / self.heat, logits)


def test_fire_heats_the_first_token_of_each_sample_whenever_it_arrives():
    method = Sketch(start=lambda call: Fire(heat=30.0))
    assert isinstance(method, Method)
    first = 0
    for turn in decode(method, arrivals=(0, 3, 0, 5, 3)):
        hot = turn.step.positions == 0
        spread = turn.logits.max(dim=-1).values - turn.logits.min(dim=-1).values
        assert (spread[hot] < 1).all()
        assert torch.equal(turn.logits[~hot], turn.reference[~hot])
        first += hot.sum().item()
    assert first == 5


# -- OverRIDE: each sample leaves what its predecessor says (OpenReview 2Xd5RlypLx) --------------


class Override(Steering):
    """Head n learns the tokens of sample n by cross-entropy, and is taken from sample n + 1."""

    def __init__(self, call, strength=0.8):
        self.number = torch.tensor([call.groups[:at].count(g) for at, g in enumerate(call.groups)])
        self.strength = strength
        # Place 0 is the head that sample 0 has before it: zeros, never taught.
        self.heads = torch.zeros(len(call.groups) + 1, HIDDEN, VOCAB, requires_grad=True)
        self.adam = torch.optim.Adam([self.heads], lr=0.05)

    def residual(self, step, place):
        return torch.einsum("rh,rhv->rv", step.deep, self.heads[place])

    def reweight(self, step, logits, reference):
        self.logits = logits
        return logits - self.strength * self.residual(step, self.number[step.samples]).detach()

    def learn(self, step, tokens):
        guide = self.logits + self.residual(step, self.number[step.samples] + 1)
        losses = cross_entropy(guide, tokens, reduction="none")
        self.adam.zero_grad()
        torch.where(step.unfinished, losses, 0.0).mean().backward()
        self.adam.step()


def test_override_drives_each_sample_away_from_what_its_predecessor_drew():
    turns = decode(
        Sketch(start=Override), groups=(0, 0, 0), lengths=(60, 60, 60), arrivals=(0, 0, 0)
    )
    for sample in (1, 2):
        favourite = max(range(VOCAB), key=transcript(turns, sample - 1).count)
        change = torch.stack([turn.logits[sample] - turn.reference[sample] for turn in turns])
        relative = change[:, favourite] - change.mean(dim=-1)
        assert relative[0] == 0, "nothing learnt yet"
        assert relative[-20:].mean() < -0.5
    for turn in turns:
        assert torch.equal(turn.logits[0], turn.reference[0]), "sample 0 has no predecessor"


# -- Contrastive decoding against an amateur with a memory of its own (arXiv 2210.15097) ---------


class Amateur:
    """A small recurrent language model."""

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.embedding = torch.randn(VOCAB, 4, generator=generator)
        self.head = torch.randn(4, VOCAB, generator=generator)

    def read(self, memory, tokens):
        return 0.5 * memory + self.embedding[tokens]


class Contrastive(Steering):
    def __init__(self, call):
        self.amateur = Amateur()
        self.memory = torch.zeros(len(call.prompts), 4)
        for tokens in torch.tensor(call.prompts).T:
            self.memory = self.amateur.read(self.memory, tokens)

    def reweight(self, step, logits, reference):
        scores = 1.5 * logits - 0.5 * self.memory[step.samples] @ self.amateur.head
        plausible = logits >= logits.amax(dim=-1, keepdim=True) + math.log(0.1)
        return scores.where(plausible, -torch.inf)

    def learn(self, step, tokens):
        before = self.memory[step.samples]
        after = self.amateur.read(before, tokens)
        self.memory[step.samples] = torch.where(step.unfinished[:, None], after, before)


def test_contrastive_decoding_keeps_an_amateur_in_step_with_the_rows_that_survive():
    """Each row is contrasted with an amateur that reads that sample's text from the start."""
    turns, amateur = decode(Sketch(start=Contrastive)), Amateur()
    prompts = call_of((0, 0, 0, 1, 1)).prompts
    assert {len(turn.step.samples) for turn in turns} > {1, 4, 5}, "rows come and go"
    for number, turn in enumerate(turns):
        for sample in turn.step.samples[turn.step.unfinished].tolist():
            memory = torch.zeros(4)
            for token in [*prompts[sample], *transcript(turns[:number], sample)]:
                memory = amateur.read(memory, token)
            row = turn.row_of(sample)
            plausible = turn.logits[row].isfinite()
            odds = (turn.reference[row] - turn.reference[row].max()).exp()
            assert torch.equal(plausible, odds >= 0.1)
            assert plausible[turn.drawn.tokens[row]]
            torch.testing.assert_close(
                turn.logits[row][plausible],
                (1.5 * turn.reference[row] - 0.5 * memory @ amateur.head)[plausible],
            )
