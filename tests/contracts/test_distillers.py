"""What every distiller promises, whatever it learns with."""

import pytest
import torch

from esamp.distiller import MeanDistiller
from esamp.explorer import ESamp
from esamp.layout import Layout
from esamp.method import Call
from esamp.mlp import MLPDistiller
from esamp.recursive import RecursiveDistiller
from no_sync import ForbidHostSync, HostSyncError
from steps import HIDDEN, no_tokens, random_states, random_step

DISTILLERS = [
    RecursiveDistiller(features=24, ridge=10.0),
    MLPDistiller(width=12, learning_rate=3e-3),
    MeanDistiller(),
]
GROUPS = [2, 0, 2, 3, 0, 2, 3]
CAPACITY = 4  # group 1 has no row
LAYOUT = Layout.of(GROUPS, CAPACITY)
ROWS = len(GROUPS)


@pytest.fixture(params=DISTILLERS, ids=lambda distiller: distiller.name)
def distiller(request):
    return request.param


def taught_rows(step):
    """A different row is left out at each step, and at the fourth the whole of group 3."""
    taught = torch.ones(ROWS, dtype=torch.bool)
    taught[step % ROWS] = False
    if step == 3:
        taught[[3, 6]] = False
    return taught


def teach(bank, steps=8, rows=slice(None), layout=LAYOUT):
    """Show a bank the same stream always; `rows` and `layout` say which part and where."""
    for step in range(steps):
        shallow, deep = random_states(ROWS, seed=step), random_states(ROWS, seed=step + 50)
        bank.learn(shallow[rows], deep[rows], taught_rows(step)[rows], layout)
    return bank


def state(bank):
    return {name: value for name, value in vars(bank).items() if isinstance(value, torch.Tensor)}


def assert_same_state(bank, other):
    assert state(bank).keys() == state(other).keys()
    for name, value in state(bank).items():
        assert torch.equal(value, state(other)[name]), name


def test_a_bank_of_n_groups_equals_n_banks_of_one_group(distiller):
    shallow = random_states(ROWS, seed=77)
    together = teach(distiller.open(CAPACITY, HIDDEN, "cpu")).predict(shallow, LAYOUT)
    for group in set(GROUPS):
        rows = [row for row, its_group in enumerate(GROUPS) if its_group == group]
        layout = Layout.of([0] * len(rows), 1)
        alone = teach(distiller.open(1, HIDDEN, "cpu"), rows=rows, layout=layout)
        torch.testing.assert_close(alone.predict(shallow[rows], layout), together[rows])


@pytest.mark.parametrize("order", [[6, 5, 4, 3, 2, 1, 0], [3, 0, 6, 2, 5, 1, 4]])
def test_where_rows_sit_in_the_batch_does_not_matter(distiller, order):
    shallow = random_states(ROWS, seed=77)
    predicted = teach(distiller.open(CAPACITY, HIDDEN, "cpu")).predict(shallow, LAYOUT)
    layout = Layout.of([GROUPS[row] for row in order], CAPACITY)
    moved = teach(distiller.open(CAPACITY, HIDDEN, "cpu"), rows=order, layout=layout)
    torch.testing.assert_close(moved.predict(shallow[order], layout), predicted[order])


def test_a_group_without_a_taught_row_takes_no_step(distiller):
    """Neither now nor later, as it would if moments or counts had moved."""
    bank, other = (teach(distiller.open(CAPACITY, HIDDEN, "cpu")) for _ in range(2))
    only_group_2 = torch.tensor([group == 2 for group in GROUPS])
    bank.learn(random_states(ROWS, seed=1), random_states(ROWS, seed=2), only_group_2, LAYOUT)
    shallow = random_states(ROWS, seed=77)
    for _ in range(2):
        same = (bank.predict(shallow, LAYOUT) == other.predict(shallow, LAYOUT)).all(dim=-1)
        assert torch.equal(same, ~only_group_2)
        teach(bank, steps=2)
        teach(other, steps=2)


def test_rows_that_are_not_taught_may_hold_anything(distiller):
    clean = teach(distiller.open(CAPACITY, HIDDEN, "cpu"))
    bank = distiller.open(CAPACITY, HIDDEN, "cpu")
    for step in range(8):
        shallow, deep = random_states(ROWS, seed=step), random_states(ROWS, seed=step + 50)
        taught = taught_rows(step)
        shallow[~taught], deep[~taught] = torch.nan, torch.inf
        bank.learn(shallow, deep, taught, LAYOUT)
    assert_same_state(bank, clean)


def test_predicting_changes_nothing(distiller):
    bank = teach(distiller.open(CAPACITY, HIDDEN, "cpu"))
    bank.predict(random_states(ROWS, seed=1), LAYOUT)
    assert_same_state(bank, teach(distiller.open(CAPACITY, HIDDEN, "cpu")))


def test_a_reset_group_is_new_and_the_others_go_on(distiller):
    bank = teach(distiller.open(CAPACITY, HIDDEN, "cpu"))
    bank.reset(torch.tensor([0, 3]))
    fresh = distiller.open(CAPACITY, HIDDEN, "cpu")
    taught = teach(distiller.open(CAPACITY, HIDDEN, "cpu"))
    for name, value in state(bank).items():
        if len(value) == CAPACITY:
            assert torch.equal(value[[0, 3]], state(fresh)[name][[0, 3]]), name
            assert torch.equal(value[[1, 2]], state(taught)[name][[1, 2]]), name


@pytest.mark.parametrize(("source", "target"), [(3, 0), (0, 3), (2, 1)])
def test_a_moved_group_stands_where_another_was_and_the_others_stay(distiller, source, target):
    bank, before = (teach(distiller.open(CAPACITY, HIDDEN, "cpu")) for _ in range(2))
    bank.move(source, target)
    others = [group for group in range(CAPACITY) if group not in (source, target)]
    for name, value in state(bank).items():
        if len(value) == CAPACITY:
            assert torch.equal(value[target], state(before)[name][source]), name
            assert torch.equal(value[others], state(before)[name][others]), name


def test_a_moved_group_goes_on_as_it_would_have(distiller):
    """It is a copy: what comes to stand where it was changes nothing of it."""
    bank, other = (teach(distiller.open(CAPACITY, HIDDEN, "cpu")) for _ in range(2))
    rows = [row for row, group in enumerate(GROUPS) if group == 2]
    bank.move(2, 1)
    bank.reset(torch.tensor([2]))
    teach(bank, rows=rows, layout=Layout.of([1] * 3, CAPACITY))
    teach(other, rows=rows, layout=Layout.of([2] * 3, CAPACITY))
    shallow = random_states(3, seed=77)
    torch.testing.assert_close(
        bank.predict(shallow, Layout.of([1] * 3, CAPACITY)),
        other.predict(shallow, Layout.of([2] * 3, CAPACITY)),
    )


def test_fewer_groups_than_the_bank_holds_are_its_first_ones(distiller):
    few = {"rows": [1, 4, 0, 2], "layout": Layout.of([0, 0, 1, 1], 2)}
    large, small = (teach(distiller.open(groups, HIDDEN, "cpu"), **few) for groups in (CAPACITY, 2))
    shallow = random_states(4, seed=77)
    predicted = large.predict(shallow, few["layout"])
    torch.testing.assert_close(predicted, small.predict(shallow, few["layout"]))
    for name, value in state(large).items():
        if len(value) == CAPACITY:
            torch.testing.assert_close(value[:2], state(small)[name], msg=name)


def test_groups_behind_those_of_a_layout_are_left_alone(distiller):
    bank, before = (teach(distiller.open(CAPACITY, HIDDEN, "cpu")) for _ in range(2))
    layout = Layout.of([0, 0, 1, 1], 2)
    bank.predict(random_states(4, seed=77), layout)
    teach(bank, rows=[1, 4, 0, 2], layout=layout)
    for name, value in state(bank).items():
        if len(value) == CAPACITY:
            assert torch.equal(value[2:], state(before)[name][2:]), name
    shallow = random_states(ROWS, seed=77)
    moved = (bank.predict(shallow, LAYOUT) != before.predict(shallow, LAYOUT)).any(dim=-1)
    assert moved.tolist() == [group < 2 for group in GROUPS]


def test_an_empty_batch_is_no_step(distiller):
    bank, empty = distiller.open(CAPACITY, HIDDEN, "cpu"), Layout.of([], CAPACITY)
    assert bank.predict(torch.zeros(0, HIDDEN), empty).shape == (0, HIDDEN)
    bank.learn(
        torch.zeros(0, HIDDEN), torch.zeros(0, HIDDEN), torch.zeros(0, dtype=torch.bool), empty
    )
    assert_same_state(bank, distiller.open(CAPACITY, HIDDEN, "cpu"))


def test_what_is_learnt_shows_in_the_error(distiller):
    """States are a constant and some noise, as a hidden state mostly is: all can learn that."""
    bank = distiller.open(CAPACITY, HIDDEN, "cpu")
    of_row = torch.tensor(GROUPS)
    before, after = (random_states(CAPACITY, seed=seed)[of_row] for seed in (5, 6))
    everyone, errors = torch.ones(ROWS, dtype=torch.bool), []
    for step in range(200):
        noise = 0.2 * random_states(ROWS, seed=step)
        shallow, deep = before + noise, after + noise
        residual = deep - bank.predict(shallow, LAYOUT)
        errors.append((residual.square().sum() / deep.square().sum()).item())
        bank.learn(shallow, deep, everyone, LAYOUT)
    assert sum(errors[-16:]) / 16 < 0.25 * sum(errors[:4]) / 4


def test_a_further_group_costs_what_state_bytes_says(distiller):
    def size(groups):
        return sum(value.nbytes for value in state(distiller.open(groups, HIDDEN, "cpu")).values())

    assert distiller.state_bytes(HIDDEN) == size(5) - size(4)


def test_the_same_stream_gives_the_same_state_and_no_global_number_is_drawn(distiller):
    banks = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        banks.append(teach(distiller.open(CAPACITY, HIDDEN, "cpu")))
        banks[-1].predict(random_states(ROWS), LAYOUT)
        assert torch.equal(torch.get_rng_state(), before)
    assert_same_state(*banks)


def test_a_step_never_waits_for_the_device(distiller):
    groups = [0] * 20 + [1] * 3  # more rows than the recursive distiller absorbs at once
    call = Call(hidden=HIDDEN, prompts=[()] * 23, groups=groups, seed=0, device=torch.device("cpu"))
    explorer = ESamp(distiller=distiller).start(call)
    for seed in range(2):
        step = random_step(groups, seed=seed)
        tokens = no_tokens(step)
        with ForbidHostSync():
            explorer.steer(step)
            explorer.learn(step, tokens)


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum() > 0),
        lambda x: 1 if x[0] > 0 else 2,
        lambda x: x.nonzero(),
        lambda x: torch.where(x > 0),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: x.clone().__setitem__(x > 0, torch.ones(3)),
        lambda x: torch.equal(x, x),
        lambda x: x.unique(),
    ],
)
def test_the_mode_catches_what_waits(waits):
    states = torch.tensor([1.0, 2.0, -1.0, 3.0])
    with pytest.raises(HostSyncError), ForbidHostSync():
        waits(states)


def test_the_mode_lets_the_rest_pass():
    states, at = torch.tensor([1.0, 2.0, -1.0]), torch.tensor([2, 0])
    with ForbidHostSync():
        assert torch.where(states > 0, states, 0.0)[at].shape == (2,)
