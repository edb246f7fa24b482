"""Sixty-four groups cost no more operations than one: on a GPU, no more launches."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from esamp.distiller import MeanDistiller
from esamp.explorer import ESamp
from esamp.method import Call
from esamp.mlp import MLPDistiller
from esamp.recursive import RecursiveDistiller
from steps import no_tokens, random_step


class CountOperations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def operations(distiller, groups):
    of_rows = [group for group in range(groups) for _ in range(16)]
    call = Call(
        hidden=8, prompts=[(1,)] * len(of_rows), groups=of_rows, seed=0, device=torch.device("cpu")
    )
    explorer = ESamp(distiller=distiller).start(call)
    step = random_step(of_rows)
    with CountOperations() as counted:
        explorer.steer(step)
        explorer.learn(step, no_tokens(step))
    return counted.count


@pytest.mark.parametrize(
    "distiller",
    [MeanDistiller(), RecursiveDistiller(features=8), MLPDistiller(width=8)],
    ids=lambda distiller: distiller.name,
)
def test_operations_do_not_grow_with_groups(distiller):
    one = operations(distiller, groups=1)
    assert one > 0
    assert operations(distiller, groups=64) == one
