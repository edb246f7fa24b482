"""Recorded steps against plain ones: the same numbers, whatever happens in between.

Without a GPU a stand-in records and replays on the CPU, and lets what runs beside wait as long as
it may: who forgets to wait for it reads old distillers. With one, everything runs on it as well.
"""

import contextlib
import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esamp.capture import MOST, SETTLED, Captured, Cuda, capture
from esamp.distiller import MeanDistiller
from esamp.explorer import ESamp, Explorer
from esamp.layout import Layout
from esamp.mlp import MLPDistiller
from esamp.recursive import RecursiveDistiller
from late import Late, tensors
from steps import HIDDEN, no_tokens, random_states, random_step

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
DISTILLERS = pytest.mark.parametrize(
    "distiller",
    [MeanDistiller(), RecursiveDistiller(features=20, ridge=1.0), MLPDistiller(width=8)],
    ids=lambda distiller: distiller.name,
)
GROUPS = 4


def explorers(distiller, device="cpu", hidden=HIDDEN, groups=GROUPS, **settings):
    """The same explorer twice, once plain and once captured."""
    esamp = ESamp(distiller=distiller, **settings)
    plain, inner = (Explorer(esamp, groups, hidden, device) for _ in "12")
    own = Late(inner.bank) if device == "cpu" else Cuda(torch.device(device))
    return plain, Captured(inner, own), inner, own


def one_step(steering, step):
    """Steer and learn; return copies of what came out."""
    push = steering.steer(step)
    out = push.states.clone(), push.novelty.clone()
    steering.learn(step, no_tokens(step))
    return out


def assert_same(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0, equal_nan=True)


def layout(groups, open_groups=GROUPS, device="cpu"):
    return Layout.of(groups, open_groups, device)


LAYOUTS = (
    layout([0, 0, 1, 1]),
    layout([1, 0, 1, 0]),
    layout([0, 0, 1, 1], open_groups=2),
    layout([0]),
    layout([3, 3, 3, 2, 0, 1]),
)


@st.composite
def events(draw):
    """Some dozen events: steps of one layout, some rows of them finished, and what groups do."""
    step = st.tuples(st.just("step"), st.sampled_from(range(len(LAYOUTS))), st.integers(1, 5))
    reset = st.tuples(st.just("reset"), st.integers(0, GROUPS - 1), st.just(0))
    move = st.tuples(st.just("move"), st.integers(0, GROUPS - 1), st.integers(0, GROUPS - 1))
    return draw(st.lists(st.one_of(step, step, reset, move), min_size=3, max_size=12))


@DISTILLERS
@given(events=events(), with_beta=st.booleans())
def test_captured_steps_give_what_plain_ones_give(distiller, events, with_beta):
    plain, captured, inner, device = explorers(distiller)
    seed = 0
    for kind, first, second in events:
        if kind == "reset":
            for each in (plain, captured):
                each.bank.reset(torch.tensor([first]))
        elif kind == "move":
            for each in (plain, captured):
                each.bank.move(first, second)
        for _ in range(second if kind == "step" else 0):
            seed += 1
            at = LAYOUTS[first]
            step = random_step(
                at.group.tolist(),
                seed=seed,
                layout=at,
                unfinished=random_states(len(at.group), 1, seed)[:, 0] > -1,
                beta=random_states(len(at.group), 1, seed)[:, 0].abs() if with_beta else None,
            )
            assert_same(one_step(captured, step), one_step(plain, step))
    device.wait()
    assert_same(tensors(inner.bank).values(), tensors(plain.bank).values())


def run(captured, at, steps, first_seed=0):
    for seed in range(first_seed, first_seed + steps):
        one_step(captured, random_step(at.group.tolist(), seed=seed, layout=at))


def test_a_layout_is_recorded_once_it_has_settled():
    _, captured, _, device = explorers(MeanDistiller())
    run(captured, LAYOUTS[0], SETTLED)
    assert device.recorded == 0
    run(captured, LAYOUTS[0], 5)
    assert device.recorded == 2, "steer and learn"
    run(captured, LAYOUTS[1], 1)
    run(captured, LAYOUTS[0], 1)
    assert device.recorded == 2, "it is known, though it has not settled again"


def test_layouts_of_one_shape_share_a_recording():
    plain, captured, _, device = explorers(RecursiveDistiller(features=4))
    run(captured, LAYOUTS[1], SETTLED + 1)
    run(plain, LAYOUTS[1], SETTLED + 1)
    assert device.recorded == 2
    other = layout([0, 1, 1, 0])
    for seed in range(3):
        step = random_step([0, 1, 1, 0], seed=seed, layout=other)
        assert_same(one_step(captured, step), one_step(plain, step))
    assert device.recorded == 2


def test_only_so_many_shapes_are_kept():
    _, captured, _, device = explorers(MeanDistiller())
    for rows in range(1, MOST + 2):
        run(captured, layout([0] * rows), SETTLED + 1)
    assert len(captured._recordings) == MOST
    before = device.recorded
    run(captured, layout([0]), SETTLED + 1)
    assert device.recorded == before + 2, "the oldest had to go"


def test_a_row_refused_between_steering_and_learning_is_not_learnt_from():
    plain, captured, inner, device = explorers(MeanDistiller())
    run(captured, LAYOUTS[0], SETTLED + 1)
    run(plain, LAYOUTS[0], SETTLED + 1)
    step = random_step([0, 0, 1, 1], seed=9, layout=LAYOUTS[0])
    refused = random_step(
        [0, 0, 1, 1], seed=9, layout=LAYOUTS[0], unfinished=torch.tensor([True, False, True, True])
    )
    for each in (plain, captured):
        each.steer(step)
        each.learn(refused, no_tokens(step))
    device.wait()
    assert_same(tensors(inner.bank).values(), tensors(plain.bank).values())


def test_learning_that_has_ended_is_not_replayed_and_begins_again_with_young_rows():
    plain, captured, inner, device = explorers(RecursiveDistiller(features=4), learn_tokens=3)
    replays = []
    device.beside = lambda replay: (replays.append(age), replay())
    # It is recorded in the third step, in which there is nothing to learn from.
    for seed, age in enumerate([4, 5, 6, 7, 1, 3, 4, 2]):
        positions = torch.tensor([age, age + 2, age, age])
        fields = {"seed": seed, "layout": LAYOUTS[0], "positions": positions, "least_drawn": age}
        step = random_step([0, 0, 1, 1], **fields)
        assert_same(one_step(captured, step), one_step(plain, step))
    assert replays == [1, 3, 2]
    assert inner.bank.weights.any()
    assert_same(tensors(inner.bank).values(), tensors(plain.bank).values())


def test_what_cannot_be_recorded_runs_plainly_and_says_so():
    plain, captured, _, device = explorers(MeanDistiller())

    def refuse(work):
        raise RuntimeError("operation not permitted when stream is capturing")

    device.record = refuse
    run(captured, LAYOUTS[0], SETTLED)
    run(plain, LAYOUTS[0], SETTLED)
    step = random_step([0, 0, 1, 1], seed=9, layout=LAYOUTS[0])
    with pytest.warns(RuntimeWarning, match="ESamp\\(capture=False\\)"):
        ours = one_step(captured, step)
    assert_same(ours, one_step(plain, step))
    run(captured, LAYOUTS[0], 3)  # a second warning would be an error


@pytest.mark.parametrize(
    "use",
    [
        lambda bank, step: bank.predict(step.shallow, step.layout),
        lambda bank, step: bank.learn(step.shallow, step.deep, step.unfinished, step.layout),
        lambda bank, step: bank.reset(torch.tensor([0])),
        lambda bank, step: bank.move(0, 1),
    ],
    ids=["predict", "learn", "reset", "move"],
)
def test_whoever_uses_the_bank_waits_for_what_is_learnt_beside(use):
    _, captured, _, device = explorers(MeanDistiller())
    run(captured, LAYOUTS[0], SETTLED + 1)
    assert device.later, "the last step is learnt beside"
    use(captured.bank, random_step([0, 0, 1, 1], layout=LAYOUTS[0]))
    assert not device.later


def test_the_bank_is_not_let_go_before_the_last_learning_is_done():
    _, captured, inner, device = explorers(MeanDistiller())
    run(captured, LAYOUTS[0], SETTLED + 1)
    gone = weakref.ref(captured)
    gc.disable()
    try:
        del captured
        assert gone() is None, "it must not hang in a cycle until it is collected"
    finally:
        gc.enable()
    assert not device.later
    assert inner.bank.count.any()


def test_where_there_are_no_graphs_steps_run_plainly():
    assert capture(Explorer(ESamp(), 1, HIDDEN, "cpu"), "cpu") is None


# -- on a GPU ----------------------------------------------------------------------------------


@contextlib.contextmanager
def no_waiting():
    """Make every operation that waits for the device an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@GPU
@pytest.mark.parametrize(
    "distiller", [MeanDistiller(), RecursiveDistiller(), MLPDistiller()], ids=lambda each: each.name
)
@pytest.mark.parametrize(
    ("groups", "samples", "shuffled"),
    [(1, 1, False), (8, 16, False), (8, 16, True), (1, 150, True)],
)
def test_a_gpu_gives_the_same_bits_and_never_waits(distiller, groups, samples, shuffled):
    hidden = 512
    plain, captured, inner, _ = explorers(distiller, "cuda", hidden, groups)
    of_rows = [group for group in range(groups) for _ in range(samples)]
    at = Layout.of(of_rows[::-1] if shuffled else of_rows, groups, "cuda")
    with torch.inference_mode():
        for seed in range(8):
            step = random_step(of_rows, hidden=hidden, seed=seed)
            step = type(step)(
                **{name: each.cuda() for name, each in tensors(step).items()}, layout=at
            )
            # Libraries make their handles in the first steps, and recording is allowed to wait.
            with no_waiting() if seed > SETTLED + 1 else contextlib.nullcontext():
                ours, theirs = one_step(captured, step), one_step(plain, step)
            assert_same(ours, theirs)
    assert captured._recordings
    captured._beside.wait()
    assert_same(tensors(inner.bank).values(), tensors(plain.bank).values())


@GPU
def test_esamp_captures_on_a_gpu_unless_told_not_to():
    from esamp.method import Call

    call = Call(
        hidden=HIDDEN, prompts=[[1]], groups=[0], seed=0, device=torch.device("cuda"),
    )  # fmt: skip
    assert isinstance(ESamp().start(call), Captured)
    assert isinstance(ESamp(capture=False).start(call), Explorer)
