import pytest
import torch

from esamp.distiller import MeanDistiller
from esamp.errors import UsageError
from esamp.layout import Layout
from esamp.recursive import RecursiveDistiller
from steps import random_states

GROUPS = [0, 2, 0, 2, 2]
LAYOUT = Layout.of(GROUPS, 3)


def taught_stream(steps=6):
    generator = torch.Generator().manual_seed(9)
    for step in range(steps):
        taught = torch.rand(len(GROUPS), generator=generator) < 0.8
        yield random_states(len(GROUPS), seed=step), random_states(len(GROUPS), seed=-step), taught


@pytest.mark.parametrize("ridge", [0.0, 3.0])
def test_the_mean_is_the_shrunk_mean_of_the_taught_rows_of_the_group(ridge):
    bank, seen = MeanDistiller(ridge=ridge).open(3, 8, "cpu"), {0: [], 1: [], 2: []}
    for shallow, deep, taught in taught_stream():
        bank.learn(shallow, deep, taught, LAYOUT)
        for row, group in enumerate(GROUPS):
            if taught[row]:
                seen[group].append(deep[row])
    predicted = bank.predict(random_states(3), Layout.of([0, 1, 2], 3))
    for group in (0, 2):
        rows = torch.stack(seen[group])
        torch.testing.assert_close(predicted[group], rows.sum(dim=0) / (len(rows) + ridge))
    assert not predicted[1].any(), "nothing seen: predicts zero"


def test_the_mean_is_the_recursive_distiller_with_the_bias_alone():
    mean = MeanDistiller(ridge=5.0).open(3, 8, "cpu")
    recursive = RecursiveDistiller(features=0, ridge=5.0).open(3, 8, "cpu")
    for shallow, deep, taught in taught_stream(50):
        for bank in (mean, recursive):
            bank.learn(shallow, deep, taught, LAYOUT)
        torch.testing.assert_close(
            mean.predict(shallow, LAYOUT), recursive.predict(shallow, LAYOUT)
        )


@pytest.mark.parametrize("ridge", [-0.1, float("nan"), float("inf")])
def test_a_ridge_out_of_range_is_refused(ridge):
    with pytest.raises(UsageError, match=f"ridge is {ridge}: give a finite number, 0 or above"):
        MeanDistiller(ridge=ridge)
