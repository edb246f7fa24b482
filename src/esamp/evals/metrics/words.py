"""Measures of words: what counts as a word, and self-BLEU."""

import math
import re
from collections import Counter
from collections.abc import Sequence

ORDERS = 4
"""BLEU counts n-grams of one to four words."""

_WORD = re.compile(
    r"""(?: [^\s!-/:-@\[-`{-~]      # neither space nor ASCII punctuation
          | '                       # don't
          | (?<![0-9])-             # well-known, but 3 - 4
          | (?<=[0-9])[.,](?=[0-9]) # 1,000.5
        )+
        | \S                        # any other mark is a word of its own
    """,
    re.VERBOSE,
)

Gram = tuple[str, ...]


def words_of(text: str) -> list[str]:
    """Return the words and punctuation marks of a text.

    In the manner of BLEU's "13a": ASCII punctuation stands alone, but for apostrophes, hyphens that
    do not follow a digit, and points and commas between digits. Unlike there, entities such as
    `&amp;` stay as they are and no word is joined over a line break. Case is kept. The same for
    every model, so n-grams of two models' samples can be compared. Text without spaces between
    words, such as Chinese, is not divided.
    """
    return _WORD.findall(text)


def self_bleu(samples: Sequence[Sequence[str]]) -> float | None:
    """Return the mean BLEU of each sample against all others, from 0 to 1: high is alike.

    Sentence BLEU with up to four words, brevity penalty to the closest length, orders that the
    sample is too short for left out, and the exponential smoothing of sacrebleu. Source: Zhu et
    al., 2018, arXiv 1802.01886; Papineni et al., 2002.

    Args:
        samples: The words of each sample. Samples without a word are left out.

    Returns:
        None with fewer than two samples that have words.
    """
    samples = [sample for sample in samples if sample]
    if len(samples) < 2:
        return None
    counts = [_grams(sample) for sample in samples]
    first, second = _two_largest(counts)
    lengths = [len(sample) for sample in samples]
    scores = []
    for number, own in enumerate(counts):
        matched, total = [0] * ORDERS, [0] * ORDERS
        for gram, count in own.items():
            owner, largest = first[gram]
            others = second.get(gram, 0) if owner == number else largest
            matched[len(gram) - 1] += min(count, others)
            total[len(gram) - 1] += count
        others_lengths = lengths[:number] + lengths[number + 1 :]
        scores.append(_bleu(matched, total, lengths[number], others_lengths))
    return sum(scores) / len(scores)


def _grams(words: Sequence[str]) -> Counter[Gram]:
    return Counter(
        tuple(words[start : start + n])
        for n in range(1, ORDERS + 1)
        for start in range(len(words) - n + 1)
    )


def _two_largest(
    counts: Sequence[Counter[Gram]],
) -> tuple[dict[Gram, tuple[int, int]], dict[Gram, int]]:
    """Return of each n-gram who has it most often and how often, and the most of anyone else.

    So that a sample is compared with the maximum over all others without a look at each.
    """
    first: dict[Gram, tuple[int, int]] = {}
    second: dict[Gram, int] = {}
    for number, own in enumerate(counts):
        for gram, count in own.items():
            owner, largest = first.get(gram, (-1, 0))
            if count > largest:
                first[gram] = (number, count)
                if owner >= 0:
                    second[gram] = largest
            elif count > second.get(gram, 0):
                second[gram] = count
    return first, second


def _bleu(
    matched: Sequence[int], total: Sequence[int], length: int, others: Sequence[int]
) -> float:
    if not any(matched):
        return 0.0
    closest = min(others, key=lambda other: (abs(other - length), other))
    logs, halvings = [], 0
    for hits, all_of_order in zip(matched, total, strict=True):
        if all_of_order == 0:
            break
        if hits == 0:
            # Each order without a hit counts as half a hit, then a quarter, and so on.
            halvings += 1
            logs.append(-math.log(2**halvings * all_of_order))
        else:
            logs.append(math.log(hits / all_of_order))
    brevity = min(0.0, 1 - closest / length)
    return math.exp(brevity + sum(logs) / len(logs))
