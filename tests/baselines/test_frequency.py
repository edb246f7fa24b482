import math
from collections import Counter

import pytest
import torch

from esamp import UsageError
from esamp.baselines import FrequencyPenalty
from toy import VOCAB, call_of, decode

GROUPS = (0, 0, 0, 1, 1)


@pytest.mark.parametrize(
    ("scope", "groups"),
    [("prompt", GROUPS), ("shared", (0, 0, 0, 0, 0)), ("sample", (0, 1, 2, 3, 4))],
)
def test_each_token_that_the_group_has_drawn_is_penalised_by_its_log_count(scope, groups):
    counts = Counter()
    for turn in decode(FrequencyPenalty(weight=0.7, scope=scope), groups=groups):
        group_of = turn.step.layout.group.tolist()
        for row, group in enumerate(group_of):
            penalty = torch.tensor([math.log(1 + counts[group, token]) for token in range(VOCAB)])
            torch.testing.assert_close(turn.logits[row], turn.reference[row] - 0.7 * penalty)
        for row, group in enumerate(group_of):
            if turn.step.unfinished[row]:
                counts[group, turn.drawn.tokens[row].item()] += 1
    assert sum(counts.values()) == 20 + 4 + 9 + 13 + 6
    assert max(counts.values()) > 3


def test_the_group_repeats_itself_less():
    def most(method):
        tokens = torch.cat([turn.drawn.tokens[turn.step.unfinished] for turn in decode(method)])
        return tokens.bincount(minlength=VOCAB).max()

    assert most(FrequencyPenalty(weight=2.0, scope="prompt")) < most(FrequencyPenalty(weight=0.0))


def test_settings():
    assert FrequencyPenalty(scope="shared").scope == "shared"
    with pytest.raises(UsageError, match="weight is nan"):
        FrequencyPenalty(weight=math.nan)


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_scope_is_refused():
    with pytest.raises(UsageError, match="scope is 'all': give one of prompt, shared, sample"):
        FrequencyPenalty(scope="all")


def test_counts_start_from_nothing_in_every_call():
    method = FrequencyPenalty()
    first, second = decode(method), decode(method)
    assert torch.equal(first[0].logits, second[0].logits)
    assert call_of(GROUPS).capacity == 2
