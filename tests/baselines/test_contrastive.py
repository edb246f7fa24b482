import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esamp import ModelError, UsageError
from esamp.baselines import ContrastiveDecoding
from toy import MODEL, VOCAB, ToyAmateur, call_of, decode, toy_norm, transcript

EARLY = ContrastiveDecoding(amateur="layers:3")
SECOND = ContrastiveDecoding(amateur="toy", beta=0.8, alpha=0.2)


def by_definition(method, expert, amateur):
    """Token by token."""
    odds = expert.softmax(dim=-1)
    scores = torch.full((VOCAB,), -math.inf)
    for token in range(VOCAB):
        if odds[token] >= method.alpha * odds.max():
            scores[token] = (1 + method.beta) * expert[token] - method.beta * amateur[token]
    return scores


@given(st.floats(0, 1), st.floats(0, 3), st.integers(0, 99))
def test_scores_are_those_of_the_definition(alpha, beta, seed):
    generator = torch.Generator().manual_seed(seed)
    expert, amateur = torch.randn(2, 3, VOCAB, generator=generator) * 2
    method = ContrastiveDecoding(alpha=alpha, beta=beta)
    scores = method.contrast(expert, amateur)
    for row in range(3):
        torch.testing.assert_close(scores[row], by_definition(method, expert[row], amateur[row]))


def test_early_exit_contrasts_with_the_head_on_the_earlier_state():
    for turn in decode(EARLY):
        amateur = MODEL.head(toy_norm(turn.step.shallow))
        for row in range(len(amateur)):
            expected = by_definition(EARLY, turn.reference[row], amateur[row])
            torch.testing.assert_close(turn.logits[row], expected)


def test_a_second_model_reads_what_each_row_reads():
    """Rows come and go; each is contrasted with an amateur that has read its text."""
    turns, prompts = decode(SECOND), call_of((0, 0, 0, 1, 1)).prompts
    amateur = ToyAmateur(prompts)
    for number, turn in enumerate(turns):
        for sample in turn.step.samples[turn.step.unfinished].tolist():
            text = [*prompts[sample], *transcript(turns[:number], sample)]
            row = turn.row_of(sample)
            expected = by_definition(
                SECOND, turn.reference[row], amateur.think(amateur.after(text))
            )
            torch.testing.assert_close(turn.logits[row], expected)


def test_tokens_that_the_amateur_lacks_are_cut_away():
    expert, amateur = torch.zeros(1, VOCAB), torch.zeros(1, VOCAB)
    amateur[0, -2:] = -math.inf
    for beta in (0.0, 0.5):
        scores = dataclasses.replace(EARLY, beta=beta).contrast(expert, amateur)
        assert scores[0].isfinite().tolist() == [True] * (VOCAB - 2) + [False] * 2


def test_what_it_asks_the_model_for():
    assert (EARLY.layer, EARLY.needs_reference, EARLY.truncation) == (3, True, "fused")
    assert (SECOND.layer, SECOND.needs_reference) == (1, False)
    assert ContrastiveDecoding().layer == 10


@pytest.mark.parametrize("amateur", ["", "layers:0", "layers:", "layers:-1", "layers:ten"])
def test_an_amateur_that_is_none_is_refused(amateur):
    with pytest.raises(UsageError, match=r"give layers:N with N from 1 .* or the Hub id"):
        ContrastiveDecoding(amateur=amateur)


@pytest.mark.parametrize("settings", [{"alpha": 1.5}, {"alpha": math.nan}, {"beta": -1.0}])
def test_values_that_cannot_be_used_are_refused(settings):
    (name,) = settings
    with pytest.raises(UsageError, match=f"{name} is"):
        ContrastiveDecoding(**settings)


def test_without_a_way_to_the_amateur_it_says_so():
    bare = dataclasses.replace(call_of([0]), norm=None, follow=None)
    with pytest.raises(ModelError, match="final norm was not found"):
        EARLY.start(bare)
    with pytest.raises(ModelError, match="amateur 'toy' reads token ids"):
        SECOND.start(bare)
