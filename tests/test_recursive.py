from itertools import pairwise

import pytest
import torch

from esamp.errors import UsageError
from esamp.layout import Layout
from esamp.recursive import BLOCK, LEAST_RIDGE, RecursiveDistiller
from steps import random_states

HIDDEN = 48
ROWS = 16


class Stream:
    """States with what real ones have: a strong common part, and a noisy nonlinear map."""

    def __init__(self, seed=0):
        self._generator = torch.Generator().manual_seed(seed)
        self._common = 3 * self._normal(HIDDEN)
        self._map = self._normal(HIDDEN, HIDDEN) / HIDDEN**0.5

    def next(self, rows):
        shallow = self._common + self._normal(rows, HIDDEN)
        return shallow, torch.tanh(shallow @ self._map) + 0.3 * self._normal(rows, HIDDEN)

    def _normal(self, *shape):
        return torch.randn(*shape, generator=self._generator)


class BatchRidge:
    """All rows seen, solved at once in fp64."""

    def __init__(self, bank, ridge):
        self._featurise = bank.featurise
        width = bank.weights.shape[1]
        self._gram = ridge * torch.eye(width, dtype=torch.float64)
        self._moment = torch.zeros(width, HIDDEN, dtype=torch.float64)

    def add(self, shallow, deep):
        phi = self._featurise(shallow).double()
        self._gram += phi.T @ phi
        self._moment += phi.T @ deep.double()

    def error_of(self, weights):
        solution = torch.linalg.solve(self._gram, self._moment)
        return ((weights.double() - solution).norm() / solution.norm()).item()


@pytest.mark.parametrize(
    ("features", "steps"),
    [
        (64, 10),
        (64, 1000),
        (256, 10),
        (256, 1000),
        pytest.param(256, 30_000, marks=pytest.mark.slow),
    ],
)
def test_weights_are_the_batch_ridge_solution(features, steps):
    distiller = RecursiveDistiller(features=features)
    bank, stream = distiller.open(1, HIDDEN, "cpu"), Stream()
    batch = BatchRidge(bank, distiller.ridge)
    layout, everyone = Layout.of([0] * ROWS, 1), torch.ones(ROWS, dtype=torch.bool)
    for _ in range(steps):
        shallow, deep = stream.next(ROWS)
        bank.learn(shallow, deep, everyone, layout)
        batch.add(shallow, deep)
    assert batch.error_of(bank.weights[0]) < 1e-4


@pytest.mark.parametrize(
    "groups",
    [
        pytest.param([1, 0, 1, 1, 0, 3], id="ragged, group 2 without a row"),
        pytest.param([0] * (BLOCK + 1) + [1] * 3, id="one row more than a block"),
        pytest.param([1, 0] * 3 + [0] * (2 * BLOCK + 5), id="three blocks"),
    ],
)
def test_every_group_solves_its_own_taught_rows(groups):
    """Rows that are not taught hold NaN, as rows of a broken or finished sample may."""
    distiller = RecursiveDistiller(features=32, ridge=10.0)
    bank, stream = distiller.open(4, HIDDEN, "cpu"), Stream()
    batches = [BatchRidge(bank, distiller.ridge) for _ in range(4)]
    of_row, generator = torch.tensor(groups), torch.Generator().manual_seed(1)
    for _ in range(12):
        shallow, deep = stream.next(len(groups))
        taught = torch.rand(len(groups), generator=generator) < 0.7
        for group, batch in enumerate(batches):
            rows = taught & (of_row == group)
            batch.add(shallow[rows], deep[rows])
        shallow[~taught], deep[~taught] = torch.nan, torch.nan
        bank.learn(shallow, deep, taught, Layout.of(groups, 4))
    for group, batch in enumerate(batches):
        if group in groups:
            assert batch.error_of(bank.weights[group]) < 1e-5
        else:
            assert not bank.weights[group].any()


def test_the_first_prediction_is_zero():
    bank = RecursiveDistiller().open(2, HIDDEN, "cpu")
    predicted = bank.predict(random_states(3, HIDDEN), Layout.of([0, 1, 1], 2))
    assert torch.equal(predicted, torch.zeros(3, HIDDEN))


def test_features_are_of_order_one_whatever_the_length_of_the_state():
    bank = RecursiveDistiller(features=256).open(1, HIDDEN, "cpu")
    shallow = random_states(500, HIDDEN)
    phi = bank.featurise(shallow)
    assert phi.shape == (500, 272), "256 random ones and the bias, padded"
    assert (phi >= 0).all()
    assert torch.equal(phi[:, 256], torch.ones(500))
    assert torch.equal(phi[:, 257:], torch.zeros(500, 15))
    assert phi[:, :256].square().mean() == pytest.approx(1, rel=0.1)
    torch.testing.assert_close(bank.featurise(1000 * shallow), phi, rtol=1e-4, atol=1e-5)


def test_groups_and_calls_share_one_projection_and_another_seed_has_another():
    shallow = random_states(2, HIDDEN)
    phi = RecursiveDistiller(seed=1).open(1, HIDDEN, "cpu").featurise(shallow)
    same = RecursiveDistiller(seed=1).open(3, HIDDEN, "cpu").featurise(shallow)
    other = RecursiveDistiller(seed=2).open(1, HIDDEN, "cpu").featurise(shallow)
    assert torch.equal(phi, same)
    assert not torch.allclose(phi, other)


def test_leverage_falls_as_rows_are_absorbed():
    distiller = RecursiveDistiller(features=64)
    bank, shallow = distiller.open(2, HIDDEN, "cpu"), random_states(4, HIDDEN)
    layout, taught = Layout.of([0, 0, 1, 1], 2), torch.tensor([True, True, False, False])
    seen = [bank.leverage(shallow, layout)]
    for _ in range(3):
        bank.learn(shallow, shallow, taught, layout)
        seen.append(bank.leverage(shallow, layout))
    torch.testing.assert_close(
        seen[0], bank.featurise(shallow).square().sum(dim=-1) / distiller.ridge
    )
    for before, after in pairwise(seen):
        assert (after[:2] < before[:2]).all()
        assert torch.equal(after[2:], before[2:])
    assert (seen[-1] > 0).all()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"features": -1}, "features is -1"),
        ({"ridge": 0.0}, "ridge is 0.0"),
        ({"ridge": float("nan")}, "ridge is nan"),
        ({"ridge": float("inf")}, "ridge is inf"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(UsageError, match=message):
        RecursiveDistiller(**setting)


def test_a_ridge_that_fp32_cannot_hold_is_refused():
    with pytest.raises(UsageError, match=r"ridge is 0\.001: give a finite number, 0\.01 or above"):
        RecursiveDistiller(ridge=0.001)


@pytest.mark.parametrize("rows", [16, BLOCK, 2 * BLOCK])
def test_the_least_ridge_stays_sane_on_states_with_a_strong_common_part(rows):
    hidden, layout = 48, Layout.of([0] * rows, 1)
    bank = RecursiveDistiller(ridge=LEAST_RIDGE).open(1, hidden, "cpu")
    taught, common = torch.ones(rows, dtype=torch.bool), 3 * random_states(1, hidden, seed=999)
    for step in range(200):
        shallow = random_states(rows, hidden, seed=2 * step) + common
        bank.learn(shallow, random_states(rows, hidden, seed=2 * step + 1), taught, layout)
        assert bank.predict(shallow, layout).abs().max() < 10
