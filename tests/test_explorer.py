"""Properties of DESIGN.md, section 6, that concern the core; their numbers are in the names."""

import dataclasses
import math

import pytest
import torch

from esamp.distiller import MeanDistiller
from esamp.errors import UsageError
from esamp.explorer import ESamp, Explorer
from esamp.method import Call
from esamp.mlp import MLPDistiller
from esamp.recursive import RecursiveDistiller
from steps import HIDDEN, no_tokens, random_step, select
from toy import decode, transcript

DISTILLERS = [
    RecursiveDistiller(features=16, ridge=10.0),
    MLPDistiller(width=8, learning_rate=3e-3),
    MeanDistiller(),
]
GROUPS = [0, 1, 0, 1, 0]


@pytest.fixture(params=DISTILLERS, ids=lambda distiller: distiller.name)
def settings(request):
    return ESamp(beta=0.5, distiller=request.param)


def open_explorer(settings, groups=2):
    return Explorer(settings, groups, HIDDEN, "cpu")


def teach(explorer, steps=4, groups=GROUPS, **fields):
    """Decode some steps, as an engine does, so that predictions are no longer trivial."""
    for seed in range(1, 1 + steps):
        step = random_step(groups, capacity=2, seed=seed, **fields)
        explorer.steer(step)
        explorer.learn(step, no_tokens(step))
    return explorer


def assert_left_alone(push, step, rows):
    """Their own state, bit for bit, and no novelty."""
    assert torch.equal(bits(push.states[rows]), bits(step.deep[rows]))
    assert push.novelty[rows].isnan().all()


def bits(states):
    return states.view(torch.int32)


# -- what is steered -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Perfect:
    """A distiller that knows the model: deep is shallow, reversed."""

    name: str = "perfect"

    def open(self, groups, hidden, device):
        return self

    def state_bytes(self, hidden):
        return 0

    def predict(self, shallow, layout):
        return shallow.flip(-1)

    def learn(self, shallow, deep, taught, layout):
        pass

    def reset(self, groups):
        pass


def test_2_under_a_perfect_distiller_nothing_is_pushed():
    step = random_step(GROUPS)
    step = dataclasses.replace(step, deep=step.shallow.flip(-1))
    push = open_explorer(ESamp(beta=4.0, distiller=Perfect())).steer(step)
    assert torch.equal(push.states, step.deep)
    assert torch.equal(push.novelty, torch.zeros(5))


def test_states_move_along_the_residual_and_novelty_is_its_relative_length(settings):
    explorer, step = teach(open_explorer(settings)), random_step(GROUPS)
    residual = step.deep - explorer.bank.predict(step.shallow, step.layout)
    push = explorer.steer(step)
    torch.testing.assert_close(push.states, step.deep + 0.5 * residual)
    torch.testing.assert_close(push.novelty, residual.norm(dim=-1) / step.deep.norm(dim=-1))


def test_an_orthogonal_push_is_the_residual_without_its_part_along_deep(settings):
    explorer, step = teach(open_explorer(settings)), random_step(GROUPS)
    orthogonal = teach(open_explorer(dataclasses.replace(settings, push="orthogonal")))
    whole, beside = explorer.steer(step), orthogonal.steer(step)
    push = beside.states - step.deep
    torch.testing.assert_close((push * step.deep).sum(dim=-1), torch.zeros(5), atol=1e-4, rtol=0)
    # The rest of the whole push is parallel to deep.
    along = torch.nn.functional.normalize(whole.states - step.deep - push, dim=-1)
    unit = torch.nn.functional.normalize(step.deep, dim=-1)
    torch.testing.assert_close((along * unit).sum(dim=-1).abs(), torch.ones(5))
    assert torch.equal(beside.novelty, whole.novelty)


def test_an_orthogonal_push_is_none_where_nothing_is_predicted():
    step = random_step(GROUPS)
    states = open_explorer(ESamp(beta=4.0, push="orthogonal")).steer(step).states
    torch.testing.assert_close(states, step.deep)


def test_4_each_sample_is_steered_from_its_own_state(settings):
    """Another shallow or deep state in row 2 moves row 2, and no other row of its group."""
    explorer, step = teach(open_explorer(settings)), random_step(GROUPS)
    push = explorer.steer(step)
    for name in ("shallow", "deep"):
        states = getattr(step, name).clone()
        states[2] += 1
        moved = explorer.steer(dataclasses.replace(step, **{name: states}))
        same = torch.isclose(moved.states, push.states).all(dim=-1)
        ignores_shallow = settings.distiller.name == "mean" and name == "shallow"
        assert same.tolist() == [True, True, ignores_shallow, True, True]


def test_first_tokens_are_neither_steered_nor_learnt_from(settings):
    explorer, other = teach(open_explorer(settings)), teach(open_explorer(settings))
    step = random_step(GROUPS, positions=torch.tensor([0, 0, 1, 2, 0]))
    push = explorer.steer(step)
    assert_left_alone(push, step, [0, 1, 4])
    assert push.novelty[[2, 3]].isfinite().all()
    explorer.learn(step, no_tokens(step))
    later = dataclasses.replace(step, unfinished=step.positions > 0)
    other.learn(later, no_tokens(later))
    probe = random_step(GROUPS, seed=9)
    assert torch.equal(explorer.steer(probe).states, other.steer(probe).states)


def test_10_strengths_work_side_by_side_and_rows_that_opted_out_are_untouched(settings):
    explorer = teach(open_explorer(settings))
    step = random_step(GROUPS, beta=torch.tensor([0.0, 0.25, 0.0, 0.0, 3.0]))
    step.deep[0, :4] = -0.0  # to which adding 0 · residual would give +0.0
    push = explorer.steer(step)
    assert torch.equal(bits(push.states[[0, 2, 3]]), bits(step.deep[[0, 2, 3]]))
    residual = step.deep - explorer.bank.predict(step.shallow, step.layout)
    torch.testing.assert_close(push.states[1], step.deep[1] + 0.25 * residual[1])
    torch.testing.assert_close(push.states[4], step.deep[4] + 3.0 * residual[4])
    assert push.novelty.isfinite().all(), "a row that is not pushed is measured all the same"


def test_beta_0_leaves_every_row_alone_and_still_learns(settings):
    plain = dataclasses.replace(settings, beta=0.0)
    explorer, step = teach(open_explorer(plain)), random_step(GROUPS)
    assert torch.equal(bits(explorer.steer(step).states), bits(step.deep))
    steered = teach(open_explorer(settings)).steer(step)
    assert torch.equal(explorer.steer(step).novelty, steered.novelty)


# -- who teaches -----------------------------------------------------------------------------


def test_5_all_unfinished_rows_teach_and_finished_ones_do_not():
    """Read off the mean, which shows what it was taught."""
    explorer = open_explorer(ESamp(distiller=MeanDistiller()), groups=1)
    step = random_step([0] * 5, unfinished=torch.tensor([True, False, True, True, False]))
    explorer.learn(step, no_tokens(step))
    predicted = explorer.bank.predict(step.shallow, step.layout)
    torch.testing.assert_close(predicted, step.deep[[0, 2, 3]].mean(dim=0).expand(5, -1))


def test_5_finished_rows_hold_anything_and_change_nothing(settings):
    ended = torch.tensor([False, True, False, False, True])
    step = random_step(GROUPS, unfinished=~ended)
    step.shallow[ended], step.deep[ended] = torch.nan, torch.inf
    without = select(step, [0, 2, 3], [0, 0, 1], capacity=2)
    explorer, other = teach(open_explorer(settings)), teach(open_explorer(settings))
    push = explorer.steer(step)
    assert_left_alone(push, step, ended)
    torch.testing.assert_close(push.states[~ended], other.steer(without).states)
    explorer.learn(step, no_tokens(step))
    other.learn(without, no_tokens(without))
    probe = random_step(GROUPS, seed=9)
    torch.testing.assert_close(explorer.steer(probe), other.steer(probe))


# -- batches ---------------------------------------------------------------------------------


def test_8_batches_grow_shrink_and_empty(settings):
    explorer = open_explorer(settings)
    for seed, groups in enumerate([[0], GROUPS, [1] * 40, [], [1, 0], GROUPS, []]):
        step = random_step(groups, capacity=2, seed=seed)
        push = explorer.steer(step)
        assert push.states.shape == step.deep.shape
        assert push.novelty.shape == (len(groups),)
        assert push.states.isfinite().all()
        explorer.learn(step, no_tokens(step))


def test_8_a_step_in_which_all_rows_are_finished_changes_nothing(settings):
    explorer, other = teach(open_explorer(settings)), teach(open_explorer(settings))
    step = random_step(GROUPS, unfinished=torch.zeros(5, dtype=torch.bool))
    assert_left_alone(explorer.steer(step), step, slice(None))
    explorer.learn(step, no_tokens(step))
    probe = random_step(GROUPS, seed=9)
    assert torch.equal(explorer.steer(probe).states, other.steer(probe).states)


def test_8_a_second_call_starts_fresh(settings):
    call = Call(
        hidden=HIDDEN, prompts=[(1,)] * 5, groups=GROUPS, seed=0, device=torch.device("cpu")
    )
    step = random_step(GROUPS)
    first = settings.start(call)
    before = first.steer(step).states
    teach(first)
    assert not torch.allclose(first.steer(step).states, before)
    assert torch.equal(settings.start(call).steer(step).states, before)


def test_13_neither_the_place_in_the_batch_nor_other_groups_matter(settings):
    """The rows of group 0 alone, against the same rows among others, in another order."""
    rows = [4, 0, 2]
    crowd, alone = open_explorer(settings), open_explorer(settings, groups=1)
    for seed in range(6):
        step = random_step(GROUPS, seed=seed)
        own = select(step, rows, [0, 0, 0], capacity=1)
        torch.testing.assert_close(alone.steer(own), tuple(x[rows] for x in crowd.steer(step)))
        alone.learn(own, no_tokens(own))
        crowd.learn(step, no_tokens(step))


def test_an_explorer_of_n_groups_equals_n_explorers_of_one(settings):
    groups = [2, 0, 2, 3, 0, 2, 3]
    together = open_explorer(settings, groups=4)
    alone = {group: open_explorer(settings, groups=1) for group in set(groups)}
    for seed in range(6):
        step = random_step(
            groups, seed=seed, unfinished=torch.arange(7) != seed, beta=torch.rand(7)
        )
        push = together.steer(step)
        for group, explorer in alone.items():
            rows = [row for row, its_group in enumerate(groups) if its_group == group]
            own = select(step, rows, [0] * len(rows), capacity=1)
            torch.testing.assert_close(
                explorer.steer(own), tuple(x[rows] for x in push), equal_nan=True
            )
            explorer.learn(own, no_tokens(own))
        together.learn(step, no_tokens(step))


# -- states that are not finite ---------------------------------------------------------------

BROKEN = [
    (name, value) for name in ("shallow", "deep") for value in (math.nan, math.inf, -math.inf)
]


def break_row(step, name, value, row=2):
    states = getattr(step, name).clone()
    states[row, 3] = value
    return dataclasses.replace(step, **{name: states})


@pytest.mark.parametrize(
    ("distiller", "name", "value"),
    [
        pytest.param(distiller, name, value, id=f"{distiller.name}-{name}-{value}")
        for distiller in DISTILLERS
        for name, value in BROKEN
        if not (distiller.name == "mean" and name == "shallow")  # which it does not read
    ],
)
def test_18_a_row_that_is_not_finite_is_left_alone_and_the_others_are_steered(
    distiller, name, value
):
    settings = ESamp(beta=0.5, distiller=distiller)
    explorer, step = teach(open_explorer(settings)), random_step(GROUPS)
    expected = explorer.steer(step)
    broken = break_row(step, name, value)
    push = explorer.steer(broken)
    assert_left_alone(push, broken, [2])
    others = [0, 1, 3, 4]
    torch.testing.assert_close(push.states[others], expected.states[others])
    torch.testing.assert_close(push.novelty[others], expected.novelty[others])


@pytest.mark.parametrize(("name", "value"), BROKEN)
def test_18_a_row_that_is_not_finite_poisons_nothing(settings, name, value):
    """What is learnt is what would have been learnt without the row."""
    explorer, other = teach(open_explorer(settings)), teach(open_explorer(settings))
    broken = break_row(random_step(GROUPS), name, value)
    explorer.learn(broken, no_tokens(broken))
    without = dataclasses.replace(broken, unfinished=torch.arange(5) != 2)
    other.learn(without, no_tokens(without))
    probe = random_step(GROUPS, seed=9)
    push = explorer.steer(probe)
    assert push.states.isfinite().all()
    assert push.novelty.isfinite().all()
    assert torch.equal(push.states, other.steer(probe).states)


@pytest.mark.parametrize("value", [3e38, 1e25])
def test_18_a_push_that_overflows_is_left_alone(settings, value):
    explorer = teach(open_explorer(settings))
    step = break_row(random_step(GROUPS), "deep", value)
    push = explorer.steer(step)
    assert_left_alone(push, step, [2])
    assert push.novelty[[0, 1, 3, 4]].isfinite().all()


def test_18_a_row_that_is_too_large_poisons_nothing(settings):
    """A row that is finite, while its square is not: its group goes on as good as before."""
    explorer, probe = teach(open_explorer(settings)), random_step(GROUPS, seed=9)
    before = explorer.steer(probe)
    step = break_row(break_row(random_step(GROUPS), "deep", 1e25), "shallow", 1e25)
    explorer.learn(step, no_tokens(step))
    after = explorer.steer(probe)
    assert after.states.isfinite().all()
    assert (after.novelty < 3 * before.novelty.max()).all()


def test_18_a_strength_that_is_not_finite_leaves_its_row_alone(settings):
    explorer = teach(open_explorer(settings))
    step = random_step(GROUPS, beta=torch.tensor([math.nan, math.inf, 0.5, 0.5, 0.5]))
    push = explorer.steer(step)
    assert torch.equal(bits(push.states[:2]), bits(step.deep[:2]))
    assert push.states.isfinite().all()


def test_18_a_state_of_zeros_has_no_novelty_to_speak_of(settings):
    explorer, step = teach(open_explorer(settings)), random_step(GROUPS)
    step.deep[2] = 0
    assert_left_alone(explorer.steer(step), step, [2])


# -- settings --------------------------------------------------------------------------------


def test_the_papers_setting():
    assert ESamp.paper() == ESamp(
        beta=0.25,
        distiller=MLPDistiller(width=384, learning_rate=4e-4, epsilon=1e-4, clip=0.5),
        scope="prompt",
        truncation="reference",
        layer=1,
    )


# -- learning that ends ------------------------------------------------------------------------


def test_each_row_is_learnt_from_for_so_many_tokens_and_steered_to_its_end():
    explorer = open_explorer(ESamp(beta=0.5, learn_tokens=4))
    for position in (1, 4, 5, 9):
        step = random_step([0, 0, 1], seed=position, positions=torch.tensor([position, 1, 9]))
        before = explorer.bank.weights.clone()
        assert (explorer.steer(step).states != step.deep).any(dim=-1).all()
        explorer.learn(step, no_tokens(step))
        changed = (explorer.bank.weights != before).flatten(1).any(dim=1)
        assert changed.tolist() == [True, False], "row 1 is young, group 1 is old"


@pytest.mark.parametrize(("position", "learnt"), [(4, True), (5, False)])
def test_the_last_token_that_is_learnt_from_is_exact(position, learnt):
    explorer = open_explorer(ESamp(beta=0.5, learn_tokens=4))
    step = random_step([0], capacity=2, positions=torch.tensor([position]))
    explorer.steer(step)
    explorer.learn(step, no_tokens(step))
    assert bool(explorer.bank.weights.any()) == learnt


def test_learning_that_does_not_end_in_time_is_esamp():
    def samples(learn_tokens):
        turns = decode(ESamp(beta=0.5, learn_tokens=learn_tokens))
        return [transcript(turns, sample) for sample in range(5)]

    assert samples(100) == samples(None)
    assert samples(2) != samples(None)


def test_what_the_host_knows_saves_steps_and_changes_nothing(settings, monkeypatch):
    limited = dataclasses.replace(settings, learn_tokens=3)
    told, untold = open_explorer(limited), open_explorer(limited)
    calls = {id(each.bank): 0 for each in (told, untold)}
    for bank in (told.bank, untold.bank):

        def counted(*states, bank=bank, learn=bank.learn):
            calls[id(bank)] += 1
            learn(*states)

        monkeypatch.setattr(bank, "learn", counted)
    for position in range(1, 8):
        positions = torch.full((5,), position)
        for explorer, known in ((told, position), (untold, 0)):
            step = random_step(GROUPS, seed=position, positions=positions, least_drawn=known)
            explorer.steer(step)
            explorer.learn(step, no_tokens(step))
    assert list(calls.values()) == [3, 7]
    step = random_step(GROUPS)
    assert torch.equal(told.steer(step).states, untold.steer(step).states)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"beta": math.nan}, "beta is nan: give a finite number, 0"),
        ({"beta": math.inf}, "beta is inf: "),
        ({"beta": -1.0}, "beta is -1.0: "),
        ({"beta": "much"}, "beta is 'much': "),
        ({"scope": "galaxy"}, "scope is 'galaxy': give one of prompt, shared, sample"),
        ({"push": "up"}, "push is 'up': give one of residual, orthogonal"),
        ({"capture": 1}, "capture is 1: give true or false"),
        ({"learn_tokens": 0}, "learn_tokens is 0: give 1 or more, or none for all"),
        ({"learn_tokens": 4.0}, "learn_tokens is 4.0: give 1 or more"),
        ({"learn_tokens": True}, "learn_tokens is True: give 1 or more"),
        ({"truncation": "none"}, "truncation is 'none': give one of reference, fused"),
        ({"layer": 0}, r"layer is 0: give 1 \(the first block\) or more"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(UsageError, match=message):
        ESamp(**setting)


def test_settings_are_frozen_and_can_be_compared_and_used_as_keys(settings):
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.beta = 1.0
    assert {settings: "arm"}[dataclasses.replace(settings)] == "arm"
    assert dataclasses.replace(settings, beta=0.75) != settings


def test_only_beta_0_is_inert():
    assert ESamp(beta=0.0).inert
    assert not ESamp(beta=1e-6).inert


def test_18_a_push_whose_logits_would_overflow_is_left_alone():
    """Each entry is finite, but no head could read the state."""
    step = random_step(GROUPS)
    push = open_explorer(ESamp(beta=1e38)).steer(step)
    assert push.novelty.isnan().all()
    assert torch.equal(push.states, step.deep)
