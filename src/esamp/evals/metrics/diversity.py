"""How much the samples of one prompt differ."""

import math
from collections.abc import Hashable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from esamp.errors import UsageError


def vendi(embeddings: Float[Tensor, "samples width"], order: float = 1.0) -> float:
    """Return the Vendi score: the effective number of different samples, from 1 to their count.

    exp of the Rényi entropy of the eigenvalues of K/n, K the cosine similarities (Friedman and
    Dieng, 2022, arXiv 2210.02410; orders: arXiv 2310.12952). Computed in fp64; with more samples
    than dimensions on the smaller of the two matrices that share their eigenvalues.

    Args:
        embeddings: One vector a sample, of any length but zero.
        order: Rényi order; 1 is Shannon's, `math.inf` counts the largest eigenvalue only.

    Raises:
        UsageError: There is no sample, a vector is zero or not finite, or the order is negative.
    """
    if order < 0 or math.isnan(order):
        raise UsageError(f"order is {order}: give a number, 0 or above")
    unit = _unit(embeddings, least=1)
    samples, width = unit.shape
    kernel = unit @ unit.T if samples <= width else unit.T @ unit
    weights = torch.linalg.eigvalsh(kernel / samples)
    # Rounding leaves what is zero slightly off it, on either side.
    weights = weights[weights > 1e-12]
    weights = weights / weights.sum()
    if order == math.inf:
        entropy = -weights.max().log()
    elif order == 1:
        entropy = -(weights * weights.log()).sum()
    else:
        entropy = weights.pow(order).sum().log() / (1 - order)
    return float(entropy.exp())


def mean_similarity(embeddings: Float[Tensor, "samples width"]) -> float:
    """Return the mean cosine similarity over all pairs of different samples.

    Raises:
        UsageError: There are fewer than two samples, or a vector is zero or not finite.
    """
    unit = _unit(embeddings, least=2)
    samples = len(unit)
    total = (unit @ unit.T).sum() - samples
    return float(total / (samples * (samples - 1)))


def distinct_n(sequences: Sequence[Sequence[Hashable]], n: int) -> float | None:
    """Return the share of different n-grams among all of the sequences'; None without any.

    Of tokens or of words; over all samples of a prompt together it is distinct-n across samples.
    Source: Li et al., 2016, arXiv 1510.03055.

    Raises:
        UsageError: n is below 1.
    """
    if n < 1:
        raise UsageError(f"n is {n}: give 1 or more")
    grams = [
        tuple(tokens[start : start + n])
        for tokens in sequences
        for start in range(len(tokens) - n + 1)
    ]
    return len(set(grams)) / len(grams) if grams else None


def distinct_within(sequences: Sequence[Sequence[Hashable]], n: int) -> float | None:
    """Return the mean over sequences of each one's own share of different n-grams.

    Low values mean that samples repeat themselves. Sequences shorter than n are left out; None if
    all are.

    Raises:
        UsageError: n is below 1.
    """
    shares = [distinct_n([sequence], n) for sequence in sequences]
    found = [share for share in shares if share is not None]
    return sum(found) / len(found) if found else None


def _unit(embeddings: Float[Tensor, "samples width"], least: int) -> Float[Tensor, "samples width"]:
    if len(embeddings) < least:
        raise UsageError(f"there are {len(embeddings)} samples: give at least {least}")
    vectors = embeddings.double()
    lengths = vectors.norm(dim=-1, keepdim=True)
    if not (torch.isfinite(lengths).all() and (lengths > 0).all()):
        raise UsageError("an embedding is zero or not finite: it has no direction to compare")
    unit: Tensor = vectors / lengths
    return unit
