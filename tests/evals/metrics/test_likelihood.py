import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esamp.errors import UsageError
from esamp.evals.metrics import perplexity, realised_entropy, realised_kl


def test_perplexity_of_even_odds_is_their_number():
    assert perplexity(nll=10 * math.log(7), tokens=10) == pytest.approx(7)


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=20))
def test_perplexity_is_one_over_the_geometric_mean(probabilities):
    nll = -sum(map(math.log, probabilities))
    geometric = math.prod(probabilities) ** (1 / len(probabilities))
    assert perplexity(nll, len(probabilities)) == pytest.approx(1 / geometric)


@pytest.mark.parametrize(("measure", "numbers"), [(perplexity, [0.0]), (realised_entropy, [0.0]),
                                                  (realised_kl, [0.0, 0.0])])  # fmt: skip
def test_without_a_token_nothing_is_defined(measure, numbers):
    assert measure(*numbers, 0) is None
    with pytest.raises(UsageError, match="there are -1 tokens"):
        measure(*numbers, -1)


def test_realised_entropy_and_kl_estimate_the_true_ones():
    """A million tokens of a known distribution, against a known reference."""
    drawn_from, reference = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.3, 0.5])
    generator = torch.Generator().manual_seed(0)
    tokens = drawn_from.double().multinomial(1_000_000, replacement=True, generator=generator)
    logprob = float(drawn_from.double().log()[tokens].sum())
    reference_logprob = float(reference.double().log()[tokens].sum())
    entropy = -float((drawn_from * drawn_from.log()).sum())
    kl = float((drawn_from * (drawn_from / reference).log()).sum())
    assert realised_entropy(logprob, len(tokens)) == pytest.approx(entropy, abs=0.003)
    assert realised_kl(logprob, reference_logprob, len(tokens)) == pytest.approx(kl, abs=0.003)
