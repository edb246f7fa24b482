"""From the samples of one group to its measures, as JSON data.

A group is measured by itself, in calls whose texts are the group's and no other's: so its measures
do not depend on which groups were measured before, or on where a run was cut.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from esamp.evals.embedding import Embed, Windowed
from esamp.evals.metrics import (
    distinct_n,
    distinct_within,
    mean_by_position,
    mean_similarity,
    positions_up_to,
    reaching,
    self_bleu,
    vendi,
    words_of,
)
from esamp.evals.records import GroupRecord, SampleRecord
from esamp.evals.scoring import Scorer
from esamp.evals.task import Item

ORDERS = {"1": 1.0, "2": 2.0, "inf": math.inf}
"""Orders of the Vendi score, by their names in files."""

GRAMS = (1, 2, 3)
"""Lengths of the n-grams of distinct-n, in words."""


def measure_group(
    record: GroupRecord,
    item: Item,
    embedders: Mapping[str, Embed],
    scorers: Mapping[str, Scorer],
    *,
    plain_text: bool = False,
    score_samples: int | None = None,
) -> dict[str, Any]:
    """Return the measures of one group.

    None stands for what is undefined, such as the similarity of one sample.

    Args:
        record: The group.
        item: What it was sampled for.
        embedders: By name.
        scorers: By name.
        plain_text: Whether the samples continue the prompt without a chat template.
        score_samples: How many samples scorers read, the first ones; None: all.

    Returns:
        samples, tokens (the generator's), finished: counts. logprob, reference_logprob: sums.
        distinct {within, across: {n}}, self_bleu. vendi {embedder: {order}}, similarity, cut
        {embedder}, dynamics {embedder: {position}}. nll {scorer: [nats, tokens]}. novelty: mean by
        position. distiller_error: of each step of the batch.

    Raises:
        UsageError: A sample cannot be scored or has no direction.
        ModelError: A scorer gives what is no likelihood.
    """
    samples = record.samples
    texts = [sample.text for sample in samples]
    novelty = [sample.novelty for sample in samples if sample.novelty is not None]
    measures: dict[str, Any] = {
        "samples": len(samples),
        "tokens": sum(sample.tokens for sample in samples),
        "finished": sum(sample.finish_reason == "stop" for sample in samples),
        "logprob": _sum([sample.logprob for sample in samples]),
        "reference_logprob": _sum([sample.reference_logprob for sample in samples]),
        "novelty": _rounded(mean_by_position(novelty)) if novelty else None,
        "distiller_error": _rounded(record.distiller_error),
    }
    measures |= measure_words(texts)
    measures |= {"vendi": {}, "similarity": {}, "cut": {}, "dynamics": {}, "nll": {}}
    for name, embed in embedders.items():
        for measure, value in measure_meaning(samples, embed).items():
            measures[measure][name] = value
    for name, scorer in scorers.items():
        scored = scorer.score(item.prompt, texts[:score_samples], plain_text)
        nll, tokens = sum(each.nll for each in scored), sum(each.tokens for each in scored)
        measures["nll"][name] = [nll, tokens]
    return measures


def measure_words(texts: Sequence[str]) -> dict[str, Any]:
    """Return distinct-n within and across the texts, and self-BLEU, all of words."""
    words = [words_of(text) for text in texts]
    return {
        "distinct": {
            "within": {str(n): distinct_within(words, n) for n in GRAMS},
            "across": {str(n): distinct_n(words, n) for n in GRAMS},
        },
        "self_bleu": self_bleu(words),
    }


def measure_meaning(samples: Sequence[SampleRecord], embed: Embed) -> dict[str, Any]:
    """Return how much the samples, and their prefixes, differ under one embedder."""
    texts = [sample.text for sample in samples]
    prefixes = _prefixes(samples)
    # Each different text once: a sample of 64 tokens is its own prefix of 64, and many begin alike.
    different = list(dict.fromkeys(itertools.chain(texts, *prefixes.values())))
    # Embedders want some text: an empty one, which is a sample too, is embedded as a space.
    vectors = dict(zip(different, embed([text or " " for text in different]), strict=True))

    def of(texts: Sequence[str]) -> Float[Tensor, "texts width"]:
        return torch.stack([vectors[text] for text in texts])

    def similarity(texts: Sequence[str]) -> float | None:
        return mean_similarity(of(texts)) if len(texts) > 1 else None

    whole = of(texts)
    return {
        "vendi": {name: vendi(whole, order) for name, order in ORDERS.items()},
        "similarity": similarity(texts),
        "cut": embed.cut(texts) if isinstance(embed, Windowed) else None,
        "dynamics": {str(position): similarity(each) for position, each in prefixes.items()},
    }


def _prefixes(samples: Sequence[SampleRecord]) -> dict[int, list[str]]:
    """Return the prefixes of the samples that reach each position; none where only one does."""
    lengths = [sample.tokens for sample in samples]
    prefixes = {}
    for position in positions_up_to(max(lengths, default=0)):
        who = reaching(lengths, position)
        compared = who if len(who) > 1 else []
        prefixes[position] = [samples[each].prefix(position) for each in compared]
    return prefixes


def _sum(values: Sequence[float | None]) -> float | None:
    """Return the sum; None if a value is missing or not finite, since JSON has no such number."""
    total = 0.0
    for value in values:
        if value is None or not math.isfinite(value):
            return None
        total += value
    return total


def _rounded(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else round(value, 4) for value in values]
