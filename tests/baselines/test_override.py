"""Against the definition: one module per head, autograd, and `torch.optim.Adam`."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from esamp import UsageError
from esamp.baselines import OverRIDE
from toy import VOCAB, call_of, decode

LAMBDA, RATE, RANK = 0.8, 0.05, 4
GROUPS = (0, 0, 0, 1, 1)
NUMBERS = (0, 1, 2, 0, 1)


class Definition:
    """Heads as the paper has them; a head without a row has no gradient, so Adam leaves it."""

    def __init__(self, down, heads):
        self.down = [each.clone().requires_grad_() for each in down.split(RANK, dim=1)]
        self.up = [torch.zeros(RANK, VOCAB, requires_grad=True) for _ in range(heads)]
        self.adam = torch.optim.Adam([*self.down, *self.up], lr=RATE)

    def adds(self, head, deep):
        if not 0 <= head < len(self.up):
            return torch.zeros(VOCAB)
        return deep @ self.down[head] @ self.up[head]

    def learn(self, turn):
        losses = []
        for row, sample in enumerate(turn.step.samples.tolist()):
            head = NUMBERS[sample]
            if turn.step.unfinished[row] and head < len(self.up):
                guide = turn.reference[row] + self.adds(head, turn.step.deep[row])
                losses.append(cross_entropy(guide[None], turn.drawn.tokens[row][None]))
        self.adam.zero_grad()
        if losses:
            torch.stack(losses).mean().backward()
            self.adam.step()


@pytest.mark.parametrize("heads", [1, 2, 5])
def test_it_is_its_definition(heads):
    method = OverRIDE(heads=heads, rank=RANK, learning_rate=RATE)
    # Head 1 is without a row from step 8 on, and sample 2 goes on being driven from it.
    turns = decode(method, GROUPS, lengths=(20, 4, 15, 13, 6))
    expected = Definition(method.start(call_of(GROUPS)).down.weights, heads)
    largest = 0.0
    for turn in turns:
        for row, sample in enumerate(turn.step.samples.tolist()):
            added = expected.adds(NUMBERS[sample] - 1, turn.step.deep[row]).detach()
            torch.testing.assert_close(
                turn.logits[row], turn.reference[row] - LAMBDA * added, atol=1e-4, rtol=1e-4
            )
            largest = max(largest, added.abs().max().item())
        expected.learn(turn)
    assert largest > 0.5


def test_first_samples_and_those_beyond_the_heads_are_plain_bit_for_bit():
    method = OverRIDE(heads=1, rank=RANK, learning_rate=RATE)
    turns = decode(method, (0, 0, 0), (20, 20, 20), (0, 0, 0))
    for turn in turns:
        for sample in (0, 2):
            assert torch.equal(turn.logits[sample], turn.reference[sample])
    assert not torch.equal(turns[-1].logits[1], turns[-1].reference[1])


@pytest.mark.parametrize("broken_part", ["deep", "logits"])
def test_a_row_that_is_not_finite_teaches_nothing(broken_part):
    clean, broken = (OverRIDE(rank=RANK).start(call_of(GROUPS)) for _ in range(2))
    turn = decode(OverRIDE(rank=RANK), GROUPS, (9,) * 5, (0,) * 5)[3]
    deep, logits = turn.step.deep.clone(), turn.reference.clone()
    for steering in (clean, broken):
        steering.reweight(turn.step, turn.reference, None)
    turn.step.unfinished[1] = False
    clean.learn(turn.step, turn.drawn.tokens)
    turn.step.unfinished[1] = True
    {"deep": turn.step.deep, "logits": logits}[broken_part][1] = torch.inf
    broken.reweight(turn.step, logits, None)
    broken.learn(turn.step, turn.drawn.tokens)
    turn.step.deep.copy_(deep)
    torch.testing.assert_close(broken.up.weights, clean.up.weights, rtol=0, atol=0)
    torch.testing.assert_close(broken.down.weights, clean.down.weights, rtol=0, atol=0)
    assert clean.up.weights.abs().max() > 0


def test_the_calls_seed_decides_the_heads():
    one, again, other = (OverRIDE().start(call_of(GROUPS, seed)) for seed in (1, 1, 2))
    assert torch.equal(one.down.weights, again.down.weights)
    assert not torch.equal(one.down.weights, other.down.weights)
    assert one.down.weights.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("settings", [{"strength": -1.0}, {"heads": 0}, {"rank": 0}])
def test_values_that_cannot_be_used_are_refused(settings):
    (name,) = settings
    with pytest.raises(UsageError, match=f"{name} is"):
        OverRIDE(**settings)
