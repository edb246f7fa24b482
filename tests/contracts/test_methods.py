"""What every decoding method promises, run through one small loop with rows that come and go."""

import pytest
import torch

from esamp.baselines.noise import GaussianNoise
from esamp.distiller import MeanDistiller
from esamp.explorer import ESamp
from esamp.method import Method, Vanilla
from esamp.mlp import MLPDistiller
from esamp.recursive import RecursiveDistiller
from no_sync import ForbidHostSync
from steps import no_tokens, random_step
from toy import VOCAB, call_of, decode, transcript

DISTILLERS = [
    RecursiveDistiller(features=16, ridge=10.0),
    MLPDistiller(width=8, learning_rate=3e-3),
    MeanDistiller(),
]
ESAMP = {f"esamp-{each.name}": ESamp(beta=0.5, distiller=each) for each in DISTILLERS}
NOISE = {f"noise-{name}": GaussianNoise(esamp=settings) for name, settings in ESAMP.items()}
ACTIVE = ESAMP | NOISE
INERT = {
    "vanilla": Vanilla(),
    "esamp-0": ESamp(beta=0.0),
    "noise-0": GaussianNoise(esamp=ESamp(beta=0.0)),
}
ALL = ACTIVE | INERT


def each(methods):
    return pytest.mark.parametrize("method", methods.values(), ids=methods.keys())


@each(ALL)
def test_it_is_a_method_that_can_be_compared_and_says_whether_it_is_inert(method):
    assert isinstance(method, Method)
    assert {method: 1}[method] == 1
    assert method.inert == (method in INERT.values())


@each(ALL)
def test_every_unfinished_row_draws_a_token(method):
    for turn in decode(method):
        drawing = turn.step.unfinished
        assert turn.logits[drawing].isfinite().all()
        assert turn.drawn.logprobs[drawing].isfinite().all()
        assert ((turn.drawn.tokens >= 0) & (turn.drawn.tokens < VOCAB)).all()


@each(ACTIVE)
def test_steered_are_the_unfinished_rows_after_their_first_token(method):
    seen = set()
    for turn in decode(method):
        steered = turn.step.unfinished & (turn.step.positions > 0)
        moved = (turn.push.states != turn.step.deep).any(dim=-1)
        assert torch.equal(moved, steered)
        assert torch.equal(turn.push.novelty.isfinite(), steered)
        seen |= set(zip(turn.step.unfinished.tolist(), steered.tolist(), strict=True))
    assert seen == {(True, True), (True, False), (False, False)}, "the loop shows all cases"


@each(INERT)
def test_an_inert_method_leaves_every_logit_as_it_is_bit_for_bit(method):
    for turn, plain in zip(decode(method), decode(Vanilla()), strict=True):
        assert torch.equal(turn.logits, turn.reference)
        assert torch.equal(turn.drawn.tokens, plain.drawn.tokens)


@each(ALL)
def test_the_same_seed_gives_the_same_samples_also_from_settings_used_before(method):
    torch.manual_seed(1)
    first = decode(method)
    torch.manual_seed(2)
    for turn, again in zip(first, decode(method), strict=True):
        assert torch.equal(turn.drawn.tokens, again.drawn.tokens)
        assert torch.equal(turn.logits, again.logits)
    other = decode(method, seed=1)
    assert any(transcript(first, sample) != transcript(other, sample) for sample in range(5))


@each(ESAMP | INERT)
def test_other_groups_do_not_change_a_groups_samples(method):
    """Property 13. (The noise control draws for the whole call, so it is not in this list.)"""
    crowd = decode(method)
    alone = decode(method, groups=(0, 0, 0), lengths=(20, 4, 9), arrivals=(0, 0, 0))
    for sample in range(3):
        assert transcript(crowd, sample) == transcript(alone, sample)


@each(ALL)
def test_no_number_is_drawn_from_the_global_generator(method):
    before = torch.get_rng_state()
    decode(method)
    assert torch.equal(torch.get_rng_state(), before)


@each(ALL)
def test_a_step_never_waits_for_the_device(method):
    steering, step = method.start(call_of([0, 1, 0])), random_step([0, 1, 0])
    tokens = no_tokens(step)
    with ForbidHostSync():
        steering.steer(step)
        steering.learn(step, tokens)


@each(ALL)
def test_a_batch_may_be_empty(method):
    steering, step = method.start(call_of([0, 1, 0])), random_step([], capacity=2)
    push = steering.steer(step)
    assert push is None or push.states.shape == step.deep.shape
    steering.learn(step, no_tokens(step))
