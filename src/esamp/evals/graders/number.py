"""Judge of word problems: the number that a text ends in."""

from dataclasses import dataclass
from fractions import Fraction

from esamp.evals.graders.extract import last_number
from esamp.evals.task import Grade, Item


@dataclass(frozen=True, kw_only=True)
class NumberGrader:
    """Compares numbers exactly, so 1,000.0 is 1000. `reference`: answer, a number as text."""

    def grade(self, item: Item, text: str) -> Grade:
        """Judge one sample."""
        number = last_number(text)
        if number is None:
            return Grade(correct=False, note="no answer")
        return Grade(correct=number == Fraction(item.reference["answer"]), answer=str(number))
