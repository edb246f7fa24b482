"""Judge of multiple choice: the letter after the last `Answer:`."""

import re
from dataclasses import dataclass
from string import ascii_uppercase

from esamp.evals.graders.extract import last_boxed
from esamp.evals.task import Grade, Item

CUE = re.compile(r"\banswer\b\**(?:\s+is\b)?[:\s*]*(.*)", re.IGNORECASE)
LETTER = re.compile(
    r"(?:[\s*_$({\[\"'`:]|\\\(|(?i:option|choice)\s|\\(?:boxed|text|textbf|mathrm)\{)*"
    r"([A-Z])(?![A-Za-z])"
)
ANOTHER = re.compile(r"[\s)*\]}.$`\\]*(?:or|and|/|,|&)\s*[({\[*`\\]*[A-Z](?![A-Za-z])")


@dataclass(frozen=True, kw_only=True)
class ChoiceGrader:
    """Compares letters. `reference`: answer, the right letter; choices, how many there are."""

    def grade(self, item: Item, text: str) -> Grade:
        """Judge one sample."""
        letters = ascii_uppercase[: item.reference["choices"]]
        letter = self._letter(text, letters)
        if letter is None or letter not in letters:
            return Grade(correct=False, note="no answer")
        return Grade(correct=letter == item.reference["answer"], answer=letter)

    @staticmethod
    def _letter(text: str, letters: str) -> str | None:
        """Return the letter that a text decides for; two letters are no decision.

        Args:
            text: A sample.
            letters: Those of the choices: an I that is none of them is the writer.
        """
        writer = set("I") - set(letters)
        lines = [
            match[1]
            for match in CUE.finditer(text)
            if (letter := LETTER.match(match[1])) and letter[1] not in writer
        ]
        boxed = last_boxed(text)
        decision = lines[-1] if lines else boxed
        match = LETTER.match(decision) if decision is not None else None
        if decision is None or match is None or ANOTHER.match(decision, match.end()):
            return None
        return match[1]
