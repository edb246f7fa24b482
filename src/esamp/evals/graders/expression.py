r"""Judge of mathematics: the last \boxed{…}, compared as mathematics by math-verify."""

import logging
import re
from dataclasses import dataclass
from typing import Any

from esamp.errors import MissingDependencyError
from esamp.evals.graders.extract import last_boxed
from esamp.evals.task import Grade, Item

TAIL = 2000
"""Characters at the end of a text in which an answer without a box is looked for."""
LONGEST = 1000
"""Characters of an answer; a longer one is none."""
INTEGER = re.compile(r"\\?[($]*\s*0*([0-9]{1,3})\s*\\?[)$.]*")


@dataclass(frozen=True, kw_only=True)
class MathGrader:
    r"""Compares expressions. `reference`: answer, in LaTeX.

    math-verify's own timeouts need the main thread and are switched off: give texts from a stranger
    to a `GradingPool`, whose worker processes are ended when they take too long.
    """

    integers: bool = False
    """Whether answers are whole numbers from 0 to 999, as AIME's: a plain one is compared as such,
    the rest by math-verify."""

    def prepare(self) -> None:
        """Load math-verify.

        Raises:
            MissingDependencyError: It is not installed.
        """
        _math_verify()

    def grade(self, item: Item, text: str) -> Grade:
        """Judge one sample."""
        gold = str(item.reference["answer"])
        boxed = last_boxed(text)
        if self.integers and boxed is not None and (match := INTEGER.fullmatch(boxed)):
            return Grade(correct=int(match[1]) == int(gold), answer=str(int(match[1])))
        try:
            return self._compare(gold, text[-TAIL:] if boxed is None else rf"\boxed{{{boxed}}}")
        except Exception as error:  # noqa: BLE001  (a parser of anything may raise anything)
            return Grade(correct=False, note=f"not understood: {type(error).__name__}")

    def _compare(self, gold: str, text: str) -> Grade:
        """Let math-verify decide."""
        library = _math_verify()
        if len(text) > TAIL or (text.startswith(r"\boxed") and len(text) > LONGEST):
            return Grade(correct=False, note="answer too long")
        answer = library.parse(text, parsing_timeout=None)
        if not answer:
            return Grade(correct=False, note="no answer")
        right = library.parse(rf"\boxed{{{gold}}}", parsing_timeout=None)
        if library.verify(right, answer, timeout_seconds=None):
            # All right answers are one answer, however they are written.
            return Grade(correct=True, answer=str(int(gold)) if self.integers else _form(right))
        return Grade(correct=False, answer=_form(answer))


def _form(parsed: list[Any]) -> str:
    """Return a normal form of what math-verify read: numbers are exact, the rest as it prints."""
    import sympy

    expression = parsed[0]
    if isinstance(expression, sympy.Float):
        expression = sympy.nsimplify(expression, rational=True)
    return str(expression)


def _math_verify() -> Any:
    """Return the library, quiet about the timeouts that are off on purpose."""
    try:
        import math_verify
    except ImportError as error:
        raise MissingDependencyError(
            "grading mathematics needs math-verify: pip install 'esamp[eval]'"
        ) from error
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    return math_verify
