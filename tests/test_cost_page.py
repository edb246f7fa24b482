"""The formulas of docs/cost.md count the code; its tables and those of docs/overhead.md follow."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from backends.vllm.outputs import Scheduler, request
from esamp.backends.transformers.states import HeadRows
from esamp.backends.vllm.parameters import EngineSettings
from esamp.backends.vllm.pilot import Pilot
from esamp.distiller import MeanDistiller
from esamp.explorer import ESamp, Explorer
from esamp.fusion import fuse_survivors, move_survivors
from esamp.layout import Layout
from esamp.mlp import MLPDistiller
from esamp.recursive import BLOCK, RecursiveDistiller
from steps import no_tokens, random_states, random_step

ROOT = Path(__file__).parent.parent
HIDDEN = 4096
SHAPES = pytest.mark.parametrize(
    ("groups", "samples"), [(1, 1), (32, 1), (8, 16), (32, 16), (1, 128)]
)
DISTILLERS = pytest.mark.parametrize(
    "distiller",
    [MeanDistiller(), RecursiveDistiller(), MLPDistiller()],
    ids=lambda distiller: distiller.name,
)
# Views whose schema does not say so, and the factory that fills nothing.
NO_KERNEL = {"_unsafe_view", "detach", "empty_like", "empty", "split", "split_with_sizes", "unbind"}


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """The scripts import each other as they do when they are run."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.fixture
def parts():
    import parts

    return parts


def tables_of(page, script):
    pattern = rf"<!-- table: {re.escape(script)} -->\n\n(.*?)\n\n<!-- end -->"
    return re.findall(pattern, (ROOT / "docs" / page).read_text(), re.S)


class CountTraffic(TorchDispatchMode):
    """Counts kernels and the bytes that they read and write; runs on tensors without storage."""

    def __init__(self):
        super().__init__()
        self.kernels = self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if function.is_view or name in NO_KERNEL or (name == "copy_" and same_place(*args[:2])):
            return result
        # A copy does not read what it overwrites.
        seen = tree_leaves((args[1:] if name == "copy_" else args, kwargs, result))
        self.kernels += 1
        self.bytes += sum(size(each) for each in seen if isinstance(each, torch.Tensor))
        return result


def same_place(target, source):
    """Whether a copy would be of a tensor onto itself, as after `x[:n] += y`; torch skips it."""
    storages = (target.untyped_storage()._cdata, source.untyped_storage()._cdata)
    places = ((each.storage_offset(), each.shape, each.stride()) for each in (target, source))
    return storages[0] == storages[1] and next(places) == next(places)


def size(tensor):
    strides = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.element_size() * torch.Size(n for n, stride in strides if stride).numel()


def flops_of_product(_, left, right, *args, **kwargs):
    return 2 * math.prod(left) * right[-1]


def open_step(distiller, groups, samples):
    """An explorer and a step on tensors without storage."""
    of_rows = [group for group in range(groups) for _ in range(samples)]
    step = random_step(of_rows, hidden=HIDDEN, beta=torch.ones(len(of_rows)))
    fields = {
        name: value.to("meta")
        for name, value in vars(step).items()
        if isinstance(value, torch.Tensor)
    }
    fields["layout"] = Layout.of(of_rows, groups, "meta")
    return Explorer(ESamp(distiller=distiller), groups, HIDDEN, "meta"), type(step)(**fields)


def traffic(distiller, groups, samples):
    """Kernels and bytes by stage."""
    explorer, step = open_step(distiller, groups, samples)
    predict = explorer.bank.predict
    counted = {stage: CountTraffic() for stage in ("predict", "steer", "learn")}

    def counted_predict(shallow, layout):
        with counted["predict"]:
            return predict(shallow, layout)

    explorer.bank.predict = counted_predict
    with counted["steer"]:
        explorer.steer(step)
    with counted["learn"]:
        explorer.learn(step, no_tokens(step))
    mix = counted.pop("steer")
    # Modes nest: what is counted within predict is counted by steer too.
    mix.kernels -= counted["predict"].kernels
    mix.bytes -= counted["predict"].bytes
    return counted | {"mix": mix}


# -- the formulas ------------------------------------------------------------------------------


@DISTILLERS
@SHAPES
def test_bytes_and_kernels_of_each_stage_are_those_of_the_code(parts, distiller, groups, samples):
    model = parts.PARTS[distiller.name](HIDDEN, groups * samples, groups)
    for stage, counted in traffic(distiller, groups, samples).items():
        own = [part for part in model if part.stage == stage]
        kernels = sum(part.kernels for part in own)
        assert kernels == pytest.approx(counted.kernels, rel=0.1, abs=1), stage
        assert sum(part.bytes for part in own) == pytest.approx(counted.bytes, rel=0.1), stage


@DISTILLERS
@SHAPES
def test_flops_are_those_of_the_code(parts, distiller, groups, samples):
    explorer, step = open_step(distiller, groups, samples)
    # torch counts `baddbmm`, and leaves out the one in place.
    in_place = {torch.ops.aten.baddbmm_: flops_of_product}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counted:
        explorer.steer(step)
        explorer.learn(step, no_tokens(step))
    model = parts.PARTS[distiller.name](HIDDEN, groups * samples, groups)
    flops = sum(part.flops for part in model)
    assert flops == pytest.approx(counted.get_total_flops(), rel=0.02)


@DISTILLERS
@pytest.mark.parametrize("hidden", [576, HIDDEN])
def test_state_is_that_of_the_package(parts, distiller, hidden):
    assert parts.state_bytes(distiller.name, hidden) == distiller.state_bytes(hidden)


def test_constants_are_those_of_the_package(parts):
    assert (BLOCK, RecursiveDistiller().width) == (parts.BLOCK, parts.FEATURES)
    assert MLPDistiller().width == parts.WIDTH


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_fusion_after_truncation_on_transformers(parts, dtype):
    rows, vocab = 16, 1000
    logits = torch.empty(rows, vocab, dtype=dtype, device="meta")
    reference = logits.float()
    with CountTraffic() as counted:
        both = torch.cat([logits[:, None], logits[:, None]], dim=1)
        fuse_survivors(reference, reference, both[:, 1].to(torch.float32, copy=True), 0.8)
    survivors = parts.truncated("transformers", HIDDEN, vocab, rows, dtype.itemsize)[1]
    assert survivors.bytes == pytest.approx(counted.bytes, rel=0.02)
    assert survivors.kernels == counted.kernels


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_fusion_of_few_on_transformers(parts, dtype):
    rows, vocab, tokens = 16, 5000, 20
    reference = torch.empty(rows, vocab, device="meta")
    change = torch.empty(rows, HIDDEN, device="meta")
    head_rows = HeadRows(torch.empty(vocab, HIDDEN, dtype=dtype, device="meta"), 1.0)
    with CountTraffic() as counted:
        chosen = reference.topk(tokens, sorted=False).indices
        move_survivors(reference, chosen, head_rows.change(change, chosen), 0.8)
    model = parts.few(HIDDEN, vocab, rows, tokens, dtype.itemsize)
    # The whole head is an argument of the gather, which reads a few rows of it.
    unread = (vocab - rows * tokens) * HIDDEN * dtype.itemsize
    assert sum(part.bytes for part in model) == pytest.approx(counted.bytes - unread, rel=0.02)
    assert sum(part.kernels for part in model) == counted.kernels


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_fusion_after_truncation_on_vllm(parts, dtype):
    pilot = Pilot(EngineSettings(esamp=ESamp(beta=1.0), max_groups=1), 8, torch.device("cpu"))
    requests = [request(f"{n}_a", beta=1.0, params={"top_k": 2}) for n in range(16)]
    scheduler, vocab = Scheduler(), 1000
    names = [each.name for each in requests]
    for arrivals in (requests, []):
        pilot.begin(scheduler.step(*arrivals))
        with pilot.expecting(lambda: names):
            pilot.show(random_states(16), random_states(16, seed=1))
    logits = torch.zeros(16, vocab, dtype=dtype)
    scores = logits.float()
    with CountTraffic() as counted:
        pilot.keep(lambda: logits, logits)
        pilot.fuse(scores, scaled=True)
    assert pilot.stats()["faults"] == {}
    survivors = parts.truncated("vllm", HIDDEN, vocab, 16, dtype.itemsize)[1]
    assert survivors.bytes == pytest.approx(counted.bytes, rel=0.02)
    assert survivors.kernels == counted.kernels


# -- the pages ---------------------------------------------------------------------------------


def test_tables_of_the_overhead_page_are_what_its_script_computes():
    import overhead

    assert tables_of("overhead.md", "overhead.py") == overhead.tables()


def test_measured_tables_of_the_overhead_page_are_what_was_measured():
    import gpu

    data = json.loads((ROOT / "benchmarks" / "results" / "gpu-nvidia-h200.json").read_text())
    assert tables_of("overhead.md", "gpu.py") == [gpu.losses_table(data), gpu.paper_table(data)]


def test_tables_of_the_cost_page_are_what_was_measured_beside_the_model():
    import cost_tables

    data = json.loads((ROOT / "benchmarks" / "results" / "cost-cpu.json").read_text())
    assert tables_of("cost.md", "cost_tables.py") == cost_tables.tables(data)


def test_the_tables_of_a_gpu_on_the_cost_page_are_what_was_measured():
    import cost_tables

    data = json.loads((ROOT / "benchmarks" / "results" / "cost-nvidia-h200.json").read_text())
    rates = cost_tables.Rates(**data["rates"])
    assert tables_of("cost.md", "cost_tables.py h200") == [
        cost_tables.steps_table(data, rates),
        cost_tables.backends_table(data, rates),
    ]
