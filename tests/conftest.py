"""For every test: one thread, a fixed global seed, the same Hypothesis examples on each run.

`esamp` is not imported here: jaxtyping's hook, which checks every shape, has to come first.
"""

import jaxtyping
import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("esamp", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("esamp")


@pytest.fixture(autouse=True)
def global_seed():
    torch.manual_seed(0)


@pytest.fixture
def unchecked(monkeypatch):
    """What a user has: types are not checked at run time, so wrong ones reach our own checks."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
