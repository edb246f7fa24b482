import pytest
import torch

from esamp import ESamp, UsageError
from esamp.baselines import Frozen, Sharpening
from steps import no_tokens, random_step
from toy import call_of, decode, transcript

GROUPS = [0, 0, 1]


def test_rows_are_learnt_from_up_to_that_token_and_steered_further():
    steering = Frozen(esamp=ESamp(beta=0.5), after=4).start(call_of(GROUPS))
    counts = []
    for position in (1, 4, 5, 9):
        step = random_step(GROUPS, seed=position, positions=torch.tensor([position, 1, 9]))
        before = steering.bank.weights.clone()
        assert (steering.steer(step).states != step.deep).any(dim=-1).all()
        steering.learn(step, no_tokens(step))
        counts.append((steering.bank.weights != before).flatten(1).any(dim=1).tolist())
    assert counts == [[True, False]] * 4, "the second row of group 0 is young, group 1 is old"


def test_the_threshold_is_exact():
    learnt = []
    for position in (3, 4):
        steering = Frozen(after=3).start(call_of([0]))
        step = random_step([0], positions=torch.tensor([position]))
        steering.steer(step)
        steering.learn(step, no_tokens(step))
        learnt.append(bool(steering.bank.weights.any()))
    assert learnt == [True, False]


def samples_of(method):
    turns = decode(method)
    return [transcript(turns, sample) for sample in range(5)]


def test_never_frozen_is_esamp_and_frozen_at_once_is_sharpening():
    esamp = ESamp(beta=0.5)
    assert samples_of(Frozen(esamp=esamp, after=100)) == samples_of(esamp)
    assert samples_of(Frozen(esamp=esamp, after=0)) == samples_of(Sharpening(beta=0.5))
    assert samples_of(Frozen(esamp=esamp, after=2)) != samples_of(esamp)


def test_a_negative_length_is_refused():
    with pytest.raises(UsageError, match="after is -1: give 0 or more"):
        Frozen(after=-1)
