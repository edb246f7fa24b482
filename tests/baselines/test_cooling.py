import pytest
import torch

from esamp import ESamp, UsageError, Vanilla
from esamp.baselines import Cooling, FrequencyPenalty, Sharpening
from steps import HIDDEN, no_tokens, random_states, random_step
from toy import MODEL, VOCAB, call_of, decode

GROUPS = [0, 0, 0, 1, 1]


def steered(method, **shown):
    step = random_step(GROUPS, **shown)
    return step, method.start(call_of(GROUPS)).steer(step)


def test_the_temperature_falls_from_the_first_token_to_its_last():
    step, push = steered(Cooling(final=0.5, over=4), positions=torch.tensor([0, 1, 2, 4, 9]))
    lengths = push.states.norm(dim=-1) / step.deep.norm(dim=-1)
    torch.testing.assert_close(lengths, torch.tensor([1.0, 1.25, 1.5, 2.0, 2.0]))
    along = torch.nn.functional.cosine_similarity(push.states, step.deep)
    torch.testing.assert_close(along, torch.ones(5))
    assert push.novelty is None


def test_logits_are_those_of_the_final_temperature_but_for_the_heads_bias():
    bias = MODEL.head(torch.zeros(1, HIDDEN))
    for turn in decode(Cooling(final=0.8, over=1)):
        cooled = turn.step.unfinished & (turn.step.positions > 0)
        share = torch.where(cooled, 1 / 0.8, 1.0)[:, None]
        torch.testing.assert_close(turn.logits, share * (turn.reference - bias) + bias)


def test_over_one_token_it_is_sharpening():
    for one, other in zip(
        decode(Cooling(final=0.8, over=1)), decode(Sharpening(beta=0.25)), strict=True
    ):
        torch.testing.assert_close(one.push.states, other.push.states)


def test_the_method_within_steers_judges_and_learns():
    within = ESamp(beta=0.5)
    alone = within.start(call_of(GROUPS))
    cooled = Cooling(final=0.5, over=1, within=within).start(call_of(GROUPS))
    for number in range(3):
        step = random_step(GROUPS, seed=number)
        mine, its = cooled.steer(step), alone.steer(step)
        torch.testing.assert_close(mine.states, 2 * its.states)
        assert torch.equal(mine.novelty, its.novelty)
        for steering in (alone, cooled):
            steering.learn(step, no_tokens(step))


def test_logits_of_the_method_within_are_its_own():
    step, logits = random_step(GROUPS), random_states(5, VOCAB)
    penalty = FrequencyPenalty(weight=2.0)
    steerings = [m.start(call_of(GROUPS)) for m in (penalty, Cooling(within=penalty))]
    for steering in steerings:
        steering.reweight(step, logits, None)
        steering.learn(step, torch.arange(5))
    one, other = (steering.reweight(step, logits, None) for steering in steerings)
    assert torch.equal(one, other)
    assert not torch.equal(one, logits)


def test_without_a_change_of_temperature_the_method_within_is_left_alone():
    assert steered(Cooling(final=1.0))[1] is None
    _, push = steered(Cooling(final=1.0, within=ESamp(beta=0.5)))
    assert torch.equal(push.states, steered(ESamp(beta=0.5))[1].states)
    assert Cooling(final=1.0).inert
    assert not Cooling(final=1.0, within=ESamp(beta=0.5)).inert


def test_a_state_that_would_overflow_keeps_its_length():
    step = random_step(GROUPS)
    step.deep[1] = 1e38
    push = Cooling(final=0.1, over=1).start(call_of(GROUPS)).steer(step)
    assert torch.equal(push.states[1], step.deep[1])
    torch.testing.assert_close(push.states[0], 10 * step.deep[0])


def test_settings_are_those_of_the_method_within():
    cooling = Cooling(within=ESamp(scope="sample", truncation="fused", layer=2))
    assert (cooling.scope, cooling.truncation, cooling.layer) == ("sample", "fused", 2)
    assert Cooling().within == Vanilla()


@pytest.mark.parametrize("wrong", [{"final": 0.0}, {"final": -1.0}, {"over": 0}])
def test_a_wrong_setting_is_refused(wrong):
    name = next(iter(wrong))
    with pytest.raises(UsageError, match=f"{name} is"):
        Cooling(**wrong)


def test_cooling_of_cooling_is_refused():
    with pytest.raises(UsageError, match="within is cooling too"):
        Cooling(within=Cooling())
