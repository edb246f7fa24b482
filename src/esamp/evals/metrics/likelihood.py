"""How likely samples are: perplexity under a scorer, realised entropy, realised KL."""

import math

from esamp.errors import UsageError


def perplexity(nll: float, tokens: int) -> float | None:
    """Return exp of total negative log-likelihood over total tokens; None without a token.

    Of the samples' tokens given their prompt: the prompt's own tokens are not counted. Totals over
    many samples weigh a long sample more than a short one.

    Args:
        nll: Total over all tokens, in nats.
        tokens: How many there are, in the scorer's own tokens.
    """
    return None if _none(tokens) else math.exp(nll / tokens)


def realised_entropy(logprob: float, tokens: int) -> float | None:
    """Return minus the mean log-probability of the tokens drawn, in nats; None without a token.

    A Monte Carlo estimate, without bias, of the mean entropy of the distributions drawn from; no
    full distribution is kept for it. It can leave the range of an entropy where tokens are few.

    Args:
        logprob: Total log-probability under the distributions drawn from.
        tokens: How many tokens there are.
    """
    return None if _none(tokens) else -logprob / tokens


def realised_kl(logprob: float, reference_logprob: float, tokens: int) -> float | None:
    """Return the mean of log-probability less reference log-probability; None without a token.

    A Monte Carlo estimate, without bias, of KL(drawn from‖reference) in nats: its mean is never
    negative, though one estimate can be.

    Args:
        logprob: Total log-probability under the distributions drawn from.
        reference_logprob: The same under the model's unsteered distributions.
        tokens: How many tokens there are.
    """
    return None if _none(tokens) else (logprob - reference_logprob) / tokens


def _none(tokens: int) -> bool:
    if tokens < 0:
        raise UsageError(f"there are {tokens} tokens: give 0 or more")
    return tokens == 0
