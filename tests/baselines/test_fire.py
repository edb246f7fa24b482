import pytest
import torch

from esamp import ESamp, UsageError, Vanilla
from esamp.baselines import ContrastiveDecoding, Fire
from steps import no_tokens, random_states, random_step
from toy import VOCAB, call_of, decode

GROUPS = [0, 0, 1]


def reweighted(method, positions, temperature=1.0):
    step = random_step(GROUPS, positions=torch.tensor(positions))
    logits = random_states(3, VOCAB)
    return logits, method.start(call_of(GROUPS, temperature=temperature)).reweight(
        step, logits, None
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_after_the_engines_temperature_the_first_token_is_at_its_own(temperature):
    logits, handed_on = reweighted(Fire(first_top_k=3), [0, 1, 0], temperature)
    drawn_from = (handed_on / temperature).softmax(dim=-1)
    for row in (0, 2):
        kept = logits[row].topk(3).indices
        expected = torch.zeros(VOCAB)
        expected[kept] = (logits[row][kept] / 30).softmax(dim=-1)
        torch.testing.assert_close(drawn_from[row], expected)
    assert torch.equal(handed_on[1], logits[1]), "the rest is as ever"


def test_first_top_k_zero_keeps_all():
    logits, handed_on = reweighted(Fire(first_top_k=0, first_temperature=10.0), [0, 0, 0])
    torch.testing.assert_close(handed_on, logits / 10)


def test_each_sample_has_its_hot_token_when_it_arrives():
    first = 0
    for turn in decode(Fire(first_top_k=0), arrivals=(0, 3, 0, 5, 3)):
        hot = turn.step.positions == 0
        spread = turn.logits.amax(dim=-1) - turn.logits.amin(dim=-1)
        assert (spread[hot] < 1).all()
        assert torch.equal(turn.logits[~hot], turn.reference[~hot])
        first += hot.sum().item()
    assert first == 5


def test_the_method_within_steers_and_learns_the_rest():
    within = ESamp(beta=0.5)
    alone, fired = (method.start(call_of(GROUPS)) for method in (within, Fire(within=within)))
    for number in range(3):
        step = random_step(GROUPS, seed=number)
        assert torch.equal(fired.steer(step).states, alone.steer(step).states)
        for steering in (alone, fired):
            steering.learn(step, no_tokens(step))


def test_settings_are_those_of_the_method_within():
    within = ESamp(scope="sample", truncation="fused", layer=2)
    fire = Fire(within=within)
    assert (fire.scope, fire.truncation, fire.layer) == ("sample", "fused", 2)
    assert Fire(within=ContrastiveDecoding()).needs_reference
    assert not Fire(within=Vanilla()).inert


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"first_temperature": 0.0}, "first_temperature is 0.0: give a finite number above 0"),
        ({"first_top_k": -1}, "first_top_k is -1: give 0 or more"),
        ({"within": Fire()}, "within is FIRE too"),
    ],
)
def test_values_that_cannot_be_used_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        Fire(**settings)
