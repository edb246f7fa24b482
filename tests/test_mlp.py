import pytest
import torch
from torch import nn
from torch.nn.functional import silu

from esamp.errors import UsageError
from esamp.layout import Layout
from esamp.mlp import BLOCKS, MLPDistiller
from steps import random_states

HIDDEN, WIDTH, ROWS = 12, 20, 5
EVERYONE = torch.ones(ROWS, dtype=torch.bool)


class PaperBlock(nn.Module):
    """x + Down(SiLU(Gate x) · Up x)."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(HIDDEN, WIDTH, bias=False)
        self.up = nn.Linear(HIDDEN, WIDTH, bias=False)
        self.down = nn.Linear(WIDTH, HIDDEN, bias=False)

    def forward(self, x):
        return x + self.down(silu(self.gate(x)) * self.up(x))


def paper_network(bank, group):
    """The two blocks as torch would write them, with the weights of one group of a bank."""
    network = nn.Sequential(*(PaperBlock() for _ in range(BLOCKS)))
    matrices = iter(bank.weights[group].view(BLOCKS * 3, HIDDEN, WIDTH))
    with torch.no_grad():
        for block in network:
            block.gate.weight.copy_(next(matrices).T)
            block.up.weight.copy_(next(matrices).T)
            block.down.weight.copy_(next(matrices))
    return network


def test_a_groups_steps_are_those_of_torchs_adam_with_clipping():
    """Errors are large enough that the clip binds, and its second group learns other rows."""
    distiller = MLPDistiller(width=WIDTH)
    bank, layout = distiller.open(2, HIDDEN, "cpu"), Layout.of([0, 1, 0, 0, 1], 2)
    network = paper_network(bank, 0)
    adam = torch.optim.Adam(network.parameters(), lr=4e-4, eps=1e-4)
    for step in range(8):
        shallow, deep = (
            random_states(ROWS, HIDDEN, step),
            3 * random_states(ROWS, HIDDEN, step + 99),
        )
        taught = torch.tensor([True, True, step % 2 == 0, True, True])
        own = torch.tensor([True, False, step % 2 == 0, True, False])
        bank.learn(shallow, deep, taught, layout)
        loss = (network(shallow[own]) - deep[own]).square().sum(dim=-1).mean()
        adam.zero_grad()
        loss.backward()
        assert nn.utils.clip_grad_norm_(network.parameters(), 0.5) > 0.5
        adam.step()
    moved = (bank.weights[0] - bank.weights[1]).abs().max()
    torch.testing.assert_close(
        paper_network(bank, 0).state_dict(), network.state_dict(), rtol=1e-5, atol=1e-7
    )
    assert moved > 1e-4
    shallow = random_states(ROWS, HIDDEN, 7)
    torch.testing.assert_close(
        bank.predict(shallow, Layout.of([0] * ROWS, 2)), network(shallow).detach()
    )


def test_small_gradients_are_not_clipped():
    """At the same gradient, another clip that does not bind changes nothing."""
    shallow, layout = random_states(ROWS, HIDDEN), Layout.of([0] * ROWS, 1)
    banks = [
        MLPDistiller(width=WIDTH, clip=clip).open(1, HIDDEN, "cpu") for clip in (1e3, 1e6, 1e-3)
    ]
    for bank in banks:
        bank.learn(shallow, shallow, EVERYONE, layout)
    assert torch.equal(banks[0].weights, banks[1].weights)
    assert not torch.allclose(banks[0].weights, banks[2].weights, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_learns_alike_where_engines_switch_autograd_off(mode):
    shallow, deep = random_states(ROWS, HIDDEN), random_states(ROWS, HIDDEN, 1)
    layout = Layout.of([0] * ROWS, 1)
    plain, inside = (MLPDistiller(width=WIDTH).open(1, HIDDEN, "cpu") for _ in range(2))
    for _ in range(2):
        plain.learn(shallow, deep, EVERYONE, layout)
    with mode():
        states = shallow.clone(), deep.clone()
        for _ in range(2):
            inside.learn(*states, EVERYONE, layout)
        predicted = inside.predict(states[0], layout)
    assert torch.equal(inside.weights, plain.weights)
    assert torch.equal(predicted, plain.predict(shallow, layout))


def test_it_learns_also_when_opened_in_inference_mode():
    """As when a user wraps `generate`, or an engine loads its model, in inference mode."""
    layout, states = Layout.of([0] * ROWS, 1), random_states(ROWS, HIDDEN)
    plain = MLPDistiller(width=WIDTH).open(1, HIDDEN, "cpu")
    plain.learn(states, states, EVERYONE, layout)
    with torch.inference_mode():
        bank = MLPDistiller(width=WIDTH).open(1, HIDDEN, "cpu")
        bank.learn(states, states, EVERYONE, layout)
    assert torch.equal(bank.weights, plain.weights)


def test_no_autograd_graph_grows_over_the_steps():
    bank, layout = MLPDistiller(width=WIDTH).open(1, HIDDEN, "cpu"), Layout.of([0] * ROWS, 1)
    states = random_states(ROWS, HIDDEN)
    bank.learn(states, states, EVERYONE, layout)
    assert not bank.weights.requires_grad
    assert bank.predict(states, layout).grad_fn is None


def test_initial_weights_are_drawn_as_torchs_linear_draws_them():
    bank = MLPDistiller(width=400).open(2, 25, "cpu")
    gate, up, down = bank.weights[0].view(BLOCKS, 3, -1)[0]
    assert torch.equal(bank.weights[0], bank.weights[1])
    for weights, inputs in ((gate, 25), (up, 25), (down, 400)):
        bound = inputs**-0.5
        assert weights.abs().max() <= bound
        assert weights.std() == pytest.approx(bound / 3**0.5, rel=0.05)
        assert weights.mean() == pytest.approx(0, abs=0.05 * bound)


@pytest.mark.parametrize("name", ["learning_rate", "epsilon", "clip"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(UsageError, match=f"{name} is {value}"):
        MLPDistiller(**{name: value})


def test_a_network_without_width_is_refused():
    with pytest.raises(UsageError, match="width is 0"):
        MLPDistiller(width=0)


def test_a_row_so_large_that_the_loss_overflows_is_no_step():
    bank, layout = MLPDistiller().open(2, 64, "cpu"), Layout.of([0, 0, 1], 2)
    shallow, deep = random_states(3, 64), random_states(3, 64, seed=1)
    shallow[0] = 1e6
    before = bank.weights.clone()
    bank.learn(shallow, deep, torch.ones(3, dtype=torch.bool), layout)
    assert torch.equal(bank.weights[0], before[0])
    assert bank.steps.tolist() == [[0.0], [1.0]]
    assert bank.weights.isfinite().all()
