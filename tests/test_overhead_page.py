"""The tables of docs/overhead.md are what its script computes, and the script counts the code."""

import re
import runpy
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from esamp.distiller import MeanDistiller
from esamp.explorer import ESamp, Explorer
from esamp.layout import Layout
from esamp.mlp import MLPDistiller
from esamp.recursive import RecursiveDistiller
from steps import no_tokens, random_step

DOCS = Path(__file__).parent.parent / "docs"
TABLE = re.compile(r"<!-- table: overhead\.py -->\n\n(.*?)\n\n<!-- end -->", re.S)
HIDDEN = 4096
DISTILLERS = pytest.mark.parametrize(
    "distiller",
    [MeanDistiller(), RecursiveDistiller(), MLPDistiller()],
    ids=lambda distiller: distiller.name,
)
# Views whose schema does not say so, and the factory that fills nothing.
NO_KERNEL = {"_unsafe_view", "detach", "empty_like", "empty", "split", "split_with_sizes", "unbind"}


@pytest.fixture(scope="module")
def page():
    return runpy.run_path(str(DOCS / "overhead.py"))


class CountTraffic(TorchDispatchMode):
    """Counts kernels and the bytes that they read and write; runs on tensors without storage."""

    def __init__(self):
        super().__init__()
        self.kernels = self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if not (function.is_view or function.overloadpacket.__name__ in NO_KERNEL):
            self.kernels += 1
            seen = tree_leaves((args, kwargs, result))
            self.bytes += sum(size(each) for each in seen if isinstance(each, torch.Tensor))
        return result


def size(tensor):
    strides = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.element_size() * torch.Size(n for n, stride in strides if stride).numel()


def traffic(distiller, groups, samples):
    of_rows = [group for group in range(groups) for _ in range(samples)]
    step = random_step(of_rows, hidden=HIDDEN, beta=torch.ones(len(of_rows)))
    fields = {
        name: value.to("meta")
        for name, value in vars(step).items()
        if isinstance(value, torch.Tensor)
    }
    fields["layout"] = Layout.of(of_rows, groups, "meta")
    step = type(step)(**fields)
    explorer = Explorer(ESamp(distiller=distiller), groups, HIDDEN, "meta")
    with CountTraffic() as counted:
        explorer.steer(step)
        explorer.learn(step, no_tokens(step))
    return counted


def test_tables_on_the_page_are_what_the_script_computes(page):
    assert TABLE.findall((DOCS / "overhead.md").read_text()) == page["tables"]()


@DISTILLERS
@pytest.mark.parametrize(("groups", "samples"), [(1, 1), (32, 1), (32, 16), (1, 48)])
def test_bytes_and_kernels_are_those_of_the_code(page, distiller, groups, samples):
    counted = traffic(distiller, groups, samples)
    parts = page[distiller.name](HIDDEN, groups * samples, groups)
    own = [part for part in parts if part.name != "carry"]
    assert sum(part.kernels for part in own) == pytest.approx(counted.kernels, rel=0.1)
    assert sum(part.bytes for part in own) == pytest.approx(counted.bytes, rel=0.1)


@DISTILLERS
def test_state_is_that_of_the_package(page, distiller):
    assert page["state_bytes"](distiller.name, HIDDEN) == distiller.state_bytes(HIDDEN)
