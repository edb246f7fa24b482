"""How samples drift apart while they are written: measures against the token position."""

from collections.abc import Sequence

FIRST_POSITION = 8


def positions_up_to(longest: int) -> list[int]:
    """Return the token positions to look at: 8, 16, 32 and so on up to the longest sample.

    Source: ours; the paper's figure 4 has equal steps. Doubling keeps the cost of embedding all
    prefixes below twice that of embedding the samples.
    """
    positions = []
    position = FIRST_POSITION
    while position <= longest:
        positions.append(position)
        position *= 2
    return positions


def reaching(lengths: Sequence[int], position: int) -> list[int]:
    """Return which samples have at least that many tokens; shorter ones are not compared there."""
    return [sample for sample, length in enumerate(lengths) if length >= position]


def mean_by_position(rows: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Return the mean at each position over the rows that have a value there; None where none has.

    Args:
        rows: Values of each sample by position; rows may differ in length.
    """
    longest = max(map(len, rows), default=0)
    means: list[float | None] = []
    for position in range(longest):
        values = [row[position] for row in rows if position < len(row)]
        found = [value for value in values if value is not None]
        means.append(sum(found) / len(found) if found else None)
    return means
