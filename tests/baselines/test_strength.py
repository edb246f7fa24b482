import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esamp import ESamp, MeanDistiller, UsageError
from esamp.baselines import Fire, Moderated, strength
from esamp.baselines.strength import share_within
from esamp.explorer import DISTILLERS
from no_sync import ForbidHostSync
from steps import no_tokens, random_states, random_step
from toy import VOCAB, call_of, decode

GROUPS = [0, 0, 0, 1, 1, 1]
MEAN = ESamp(beta=0.8, distiller=MeanDistiller())
"""Before it has learnt, its residual is deep itself."""
ALL_KNOBS = Moderated(esamp=MEAN, budget=0.05, gate=1.0, reach=0.5, warm_up=4, beta_halflife=50.0)
ODD = {
    "positions": torch.tensor([0, 3, 3, 3, 3, 3]),
    "unfinished": torch.tensor([True, False, True, True, True, True]),
    "beta": torch.tensor([1.0, 1.0, 0.0, 0.5, 0.25, 1.0]),
}
"""A first token, a finished row, one that opted out, and strengths of their own."""


def moderate(method, reference, fused, temperature=1.0):
    """What the method makes of fused logits."""
    steering = method.start(call_of([0] * len(fused), temperature=temperature))
    return steering.reweight(random_step([0] * len(fused)), fused, reference)


def settle(method, scores, reference):
    steering = method.start(call_of([0] * len(scores), temperature=0.7))
    return steering.settle(random_step([0] * len(scores)), scores, reference)


def kl(logits, reference, temperature=1.0):
    """KL of rows of logits from others, with double precision; what is cut away adds nothing."""
    q, p = ((each.double() / temperature).log_softmax(dim=-1) for each in (logits, reference))
    return torch.where(p.isneginf(), 0.0, q.exp() * (q - p)).sum(dim=-1)


# -- the budget ------------------------------------------------------------------------------


def kl_of_odds(fused, reference):
    """KL between two coins, given their log-odds."""
    q, p = (1 / (1 + math.exp(-each)) for each in (fused, reference))
    return q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(
    ("reference", "full", "allowed"),
    [(0.0, 3.0, 1.0), (-4.0, 9.0, 2.0), (2.0, -6.0, -1.0), (0.5, 0.4, 0.35)],
)
def test_with_two_tokens_it_is_what_a_hand_solves(reference, full, allowed, temperature):
    """The budget is what it takes to move the log-odds from `reference` by `allowed`."""
    method = Moderated(budget=kl_of_odds(reference + allowed, reference))
    plain = temperature * torch.tensor([[reference, 0.0]])
    fused = temperature * torch.tensor([[reference + full, 0.0]])
    logits = moderate(method, plain, fused, temperature) / temperature
    moved = float(logits[0, 0] - logits[0, 1]) - reference
    assert moved == pytest.approx(allowed, rel=0.01)
    assert kl_of_odds(reference + moved, reference) <= method.budget * 1.0001


LOGITS = st.tuples(
    st.integers(0, 10**6),
    st.sampled_from([2, 3, 17, 400]),
    st.floats(0.0, 6.0),
    st.floats(0.01, 12.0),
    st.sampled_from([1.0, 0.5, 3.0]),
)
"""Seed, vocabulary, spread of the reference and of the change, and how heavy its tails are."""


def logits_of(seed, vocab, spread, change, power, rows=8):
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(2, rows, vocab, generator=generator)
    reference = spread * normal[0] - 30
    moved = normal[1].sign() * normal[1].abs() ** (1 / power)
    return reference, reference + change * moved + 10


@given(LOGITS, st.floats(1e-3, 3.0), st.floats(0.3, 2.0))
def test_a_row_stays_within_its_budget_or_is_plain_esamp(drawn, budget, temperature):
    reference, fused = logits_of(*drawn)
    logits = moderate(Moderated(budget=budget), reference, fused, temperature)
    spent, whole = (kl(each, reference, temperature) for each in (logits, fused))
    assert (spent <= budget * 1.001 + 1e-5).all()
    inside = whole < budget * 0.999 - 1e-5
    assert torch.equal(logits[inside], fused[inside])


def test_nearly_every_row_spends_its_budget():
    """Seeds, from mild changes to those that move all mass to one token."""
    shares = []
    for seed in range(200):
        reference, fused = logits_of(seed, (2, 17, 400)[seed % 3], seed / 40, seed / 20, 1.0)
        plain, steered = (each.log_softmax(dim=-1) for each in (reference, fused))
        share = share_within(plain, steered, 0.1)[:, None]
        spent = kl(torch.lerp(plain.double(), steered.double(), share.double()), reference)
        shares.append(spent[share[:, 0] < 1] / 0.1)
    found = torch.cat(shares)
    assert len(found) > 1000
    assert found.max() < 1.001
    assert (found > 0.985).double().mean() > 0.995


@given(LOGITS, st.floats(1e-3, 3.0))
def test_what_is_left_of_beta_is_a_share_of_the_way(drawn, budget):
    reference, fused = logits_of(*drawn)
    logits = moderate(Moderated(budget=budget), reference, fused)
    plain, steered = (each.log_softmax(dim=-1) for each in (reference, fused))
    share = share_within(plain, steered, budget)
    assert ((share > 0) & (share <= 1)).all()
    expected = torch.lerp(reference, fused, share[:, None])
    # The share is found anew from normalised logits, and where the divergence is flat it is loose.
    assert (kl(logits, expected) < 1e-4).all()


def test_the_budget_is_spent_on_survivors_at_the_temperature_that_scores_have():
    reference, fused = logits_of(3, 40, 2.0, 3.0, 1.0)
    cut = torch.rand(reference.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    cut[:, 0] = False
    reference, fused = (each.masked_fill(cut, -math.inf) for each in (reference, fused))
    scores = settle(Moderated(budget=0.2), fused, reference)
    assert torch.equal(scores.isneginf(), cut)
    spent, whole = kl(scores, reference), kl(fused, reference)
    assert (whole > 0.2).sum() >= 4
    torch.testing.assert_close(spent, whole.clamp(max=0.2), atol=0.004, rtol=0.0)


def test_rows_that_are_far_away_from_each_other_stay_within():
    """No token is likely under both; and one token is left, so nothing can be spent."""
    reference = torch.tensor([[300.0, 0.0, 0.0], [0.0, -math.inf, -math.inf]])
    fused = torch.tensor([[0.0, 3000.0, 0.0], [9.0, -math.inf, -math.inf]])
    logits = moderate(Moderated(budget=0.1), reference, fused)
    assert (kl(logits, reference) <= 0.1).all()
    assert torch.equal(logits[1], fused[1])


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_a_few_rows_after_the_other_come_out_as_all_at_once(rows, monkeypatch):
    reference, fused = logits_of(5, 1000, 3.0, 3.0, 1.0, rows)
    method = Moderated(budget=0.1, gate=6.0)
    at_once = moderate(method, reference, fused)
    sizes = []

    def spy(plain, steered, budget):
        sizes.append(len(plain))
        return share_within(plain, steered, budget)

    monkeypatch.setattr(strength, "share_within", spy)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    for few in (1, 2, 3):
        monkeypatch.setattr(strength, "CACHED", few * 1000)
        assert torch.equal(moderate(method, reference, fused), at_once)
        assert max(sizes) == min(few, rows)
        assert sum(sizes) == rows
        sizes.clear()


# -- the gate --------------------------------------------------------------------------------


def test_the_gate_opens_with_the_references_entropy():
    """Of n tokens that are equally likely the entropy is log n."""
    reference = torch.full((3, 16), -math.inf)
    for row, survivors in enumerate((1, 4, 16)):
        reference[row, :survivors] = 5.0
    fused = reference + random_states(3, 16)
    scores = settle(Moderated(gate=math.log(16)), fused, reference)
    assert torch.equal(scores[0], reference[0]), "where the model is sure, it is left alone"
    expected = reference[1, :4] + 0.5 * (fused - reference)[1, :4]
    torch.testing.assert_close(scores[1, :4], expected)
    torch.testing.assert_close(scores[2], fused[2])
    assert torch.equal(settle(Moderated(gate=0.5), fused, reference)[1:], fused[1:])


def test_the_gate_is_at_the_temperature_of_the_row():
    """Two tokens at log-odds 2, which temperature 2 makes 1."""
    reference, fused = torch.tensor([[2.0, 0.0]]), torch.tensor([[5.0, 1.0]])
    p = 1 / (1 + math.exp(-1))
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
    logits = moderate(Moderated(gate=2.0), reference, fused, temperature=2.0)
    torch.testing.assert_close(logits, reference + entropy / 2 * (fused - reference))


def test_the_budget_sees_what_the_gate_has_left():
    reference, fused = logits_of(0, 40, 2.0, 2.0, 1.0)
    gated = moderate(Moderated(gate=4.0), reference, fused)
    budget = float(kl(gated, reference).median())
    both = moderate(Moderated(gate=4.0, budget=budget), reference, fused)
    spent = kl(gated, reference)
    inside = spent < 0.999 * budget
    assert 0 < inside.sum() < len(inside)
    torch.testing.assert_close(both[inside], gated[inside])
    torch.testing.assert_close(
        kl(both, reference), spent.clamp(max=budget), atol=0.015 * budget, rtol=0.0
    )


# -- in hidden space -------------------------------------------------------------------------


def pushed(method, **fields):
    """β of each row before anything has been learnt: states are (1+β)·deep."""
    step = random_step(GROUPS, **fields)
    states = method.start(call_of(GROUPS)).steer(step).states
    return (states / step.deep - 1).mean(dim=-1)


def test_warm_up_grows_linearly_over_the_first_steered_tokens():
    positions = torch.tensor([0, 1, 2, 3, 4, 40])
    betas = pushed(Moderated(esamp=MEAN, warm_up=4), positions=positions)
    expected = 0.8 * torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0, 1.0])
    torch.testing.assert_close(betas, expected, atol=1e-5, rtol=0.0)


def test_decay_halves_beta_again_and_again():
    positions = torch.tensor([0, 1, 10, 20, 30, 10_000])
    betas = pushed(Moderated(esamp=MEAN, beta_halflife=10.0), positions=positions)
    expected = 0.8 * torch.tensor([0.0, 2**-0.1, 0.5, 0.25, 0.125, 0.0])
    torch.testing.assert_close(betas, expected, atol=1e-5, rtol=0.0)


def test_reach_shortens_the_push_and_leaves_shorter_ones_as_they_are():
    method = Moderated(esamp=MEAN, reach=1.08)
    steering, plain = method.start(call_of(GROUPS)), MEAN.start(call_of(GROUPS))
    for explorer in (steering, plain):
        first = random_step(GROUPS, seed=1)
        first.deep[3:] *= 3  # the second group's mean is far from what comes
        explorer.learn(first, no_tokens(first))
    step = random_step(GROUPS)
    push, usual = steering.steer(step), plain.steer(step)
    lengths, usual_lengths = (
        (each.states - step.deep).norm(dim=-1) / step.deep.norm(dim=-1) for each in (push, usual)
    )
    short = usual_lengths <= 1.08
    assert 0 < short.sum() < len(short)
    torch.testing.assert_close(lengths, usual_lengths.clamp(max=1.08))
    assert torch.equal(push.states[short], usual.states[short])
    assert torch.equal(push.novelty, usual.novelty), "the residual's own, whatever is pushed"


def test_knobs_of_hidden_space_need_no_second_projection():
    hidden = Moderated(esamp=MEAN, reach=0.5, warm_up=4, beta_halflife=50.0)
    assert not hidden.needs_reference
    assert Moderated(budget=0.1).needs_reference
    assert Moderated(gate=0.1).needs_reference
    steering, logits = hidden.start(call_of(GROUPS)), random_states(6, VOCAB)
    assert steering.reweight(random_step(GROUPS), logits, None) is logits
    assert steering.settle(random_step(GROUPS), logits, logits + 1) is logits


# -- all of them -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", [Moderated(esamp=MEAN), Moderated(esamp=MEAN, budget=1e6)])
def test_with_knobs_off_or_out_of_reach_it_is_esamp_bit_for_bit(method):
    for turn, usual in zip(decode(method), decode(MEAN), strict=True):
        assert torch.equal(turn.push.states, usual.push.states)
        assert torch.equal(turn.logits, usual.logits)
        assert torch.equal(turn.drawn.tokens, usual.drawn.tokens)


def test_first_tokens_finished_rows_and_those_that_opted_out_are_untouched():
    step = random_step(GROUPS, **ODD)
    step.deep[3] = torch.nan
    steering, head = ALL_KNOBS.start(call_of(GROUPS)), random_states(8, VOCAB)
    push = steering.steer(step)
    assert torch.equal(push.states[:3], step.deep[:3])
    assert (push.states[4:] != step.deep[4:]).all()
    reference = step.deep @ head
    logits = steering.reweight(step, push.states @ head, reference)
    assert torch.equal(logits[:3], reference[:3])
    assert logits[3].isnan().all()
    assert logits[4:].isfinite().all()


def test_a_requests_own_beta_is_what_is_moderated():
    betas = pushed(Moderated(esamp=MEAN, warm_up=6), **ODD)
    expected = torch.tensor([0.0, 0.0, 0.0, 0.25, 0.125, 0.5])
    torch.testing.assert_close(betas, expected, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("method", [Moderated(budget=0.1), Moderated(gate=0.1), ALL_KNOBS])
def test_a_row_whose_fused_logits_cannot_be_judged_keeps_the_reference(method, bad):
    reference, fused = logits_of(0, VOCAB, 1.0, 3.0, 1.0)
    usual = moderate(method, reference, fused)
    fused[2, 5] = bad
    logits = moderate(method, reference, fused)
    assert torch.equal(logits[2], reference[2])
    others = [row for row in range(8) if row != 2]
    assert torch.equal(logits[others], usual[others])


def test_no_pass_over_logits_waits_for_the_device():
    reference, fused = logits_of(0, VOCAB, 1.0, 3.0, 1.0, rows=6)
    steering, step = ALL_KNOBS.start(call_of(GROUPS)), random_step(GROUPS)
    with ForbidHostSync():
        steering.steer(step)
        steering.reweight(step, fused, reference)
        steering.settle(step, fused, reference)


def test_what_stands_in_front_passes_on_the_last_word():
    reference, fused = logits_of(0, VOCAB, 1.0, 3.0, 1.0)
    behind = settle(Fire(within=Moderated(budget=0.1)), fused, reference)
    assert torch.equal(behind, settle(Moderated(budget=0.1), fused, reference))
    assert not torch.equal(behind, fused)


def test_its_settings_are_no_others_names():
    """They are settings of one arm, beside those of every distiller."""
    knobs = {each.name for each in dataclasses.fields(Moderated)} - {"esamp", "name"}
    for part in (ESamp, *DISTILLERS.values()):
        assert not knobs & {each.name for each in dataclasses.fields(part)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": -1.0}, "budget is -1.0: give a finite number"),
        ({"budget": math.nan}, "budget is nan"),
        ({"gate": math.inf}, "gate is inf"),
        ({"reach": -0.1}, "reach is -0.1"),
        ({"warm_up": -1}, "warm_up is -1: give 0 or more"),
        ({"beta_halflife": -2.0}, "beta_halflife is -2.0"),
    ],
)
def test_values_that_cannot_be_used_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        Moderated(**settings)
