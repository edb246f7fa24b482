"""Judge of reasoning-gym's tasks: the family's own scoring of what follows the last `Answer:`."""

import functools
import json
import re
from dataclasses import dataclass
from typing import Any

from esamp.errors import MissingDependencyError, UsageError
from esamp.evals.graders.extract import (
    as_number,
    last_answer,
    last_answer_line,
    last_boxed,
    last_code,
    last_number,
)
from esamp.evals.task import Grade, Item

RIGHT = 0.99
"""Scores from here on are right: families give points for a wrong answer of the right form."""
CALL = re.compile(r"(\w+|[\])}\"'])\s*\(")
MATHEMATICS = re.compile(
    "sqrt|cbrt|exp|log|ln|a?(sin|cos|tan|sec|csc|cot)h?|[Aa]bs|Rational|Integer|Float"
)
"""What an answer may call."""


@dataclass(frozen=True, kw_only=True)
class GymGrader:
    """Scores answers. `reference`: family, config, seed, size, index."""

    def prepare(self) -> None:
        """Load reasoning-gym.

        Raises:
            MissingDependencyError: It is not installed.
        """
        load_gym()

    def grade(self, item: Item, text: str) -> Grade:
        """Judge one sample."""
        reference = item.reference
        config = json.dumps(reference["config"], sort_keys=True)
        problems = _problems(reference["family"], config, reference["size"], reference["seed"])
        entry = problems[reference["index"]]
        forms = _forms(text, numeric=as_number(str(entry["answer"])) is not None)
        for form in forms:
            if not harmless(form):
                continue
            try:
                score = float(problems.score_answer(form, entry))
            except Exception:  # noqa: BLE001  (some families raise on what they do not expect)
                continue
            if score >= RIGHT:
                return Grade(correct=True, answer=form)
        if not forms:
            return Grade(correct=False, note="no answer")
        return Grade(correct=False, answer=forms[-1])


def harmless(form: str) -> bool:
    """Whether a form calls nothing but functions of mathematics: some families evaluate answers."""
    if "(" not in form:
        return True
    if "__" in form or "\\" in form or "#" in form:
        return False
    return all(MATHEMATICS.fullmatch(call[1]) for call in CALL.finditer(form))


def _forms(text: str, *, numeric: bool) -> list[str]:
    """Return how the answer of a text may be read: as it stands, then without its manners.

    Args:
        text: A sample. Small models forget the line that they were asked for; then a box counts.
        numeric: Whether the right answer is a number: then the one that the text ends in counts.
    """
    answer = last_answer_line(text)
    boxed = last_boxed(text if answer is None else answer)
    # Grids have several lines.
    whole = last_answer(text)
    block = None if whole is None else last_code(whole)
    forms = [form.strip("\n") for form in (block, whole, answer, boxed) if form]
    if forms:
        forms.append(forms[-1].strip("$ ").rstrip("."))
    number = last_number(text if answer is None else answer) if numeric else None
    if number is not None:
        forms.append(str(number) if number.denominator == 1 else repr(float(number)))
    return list(dict.fromkeys(forms))


@functools.lru_cache(maxsize=4)
def _problems(family: str, config: str, size: int, seed: int) -> Any:
    return create(family, json.loads(config), size, seed)


def create(family: str, config: dict[str, Any], size: int, seed: int) -> Any:
    """Return a family's problems: the same ones for the same arguments.

    Raises:
        UsageError: There is no such family.
        MissingDependencyError: reasoning-gym is not installed.
    """
    library = load_gym()
    try:
        return library.create_dataset(family, size=size, seed=seed, **config)
    except ValueError as error:
        known = ", ".join(sorted(library.factory.DATASETS))
        raise UsageError(f"reasoning-gym has no family {family!r}: give one of {known}") from error


def load_gym() -> Any:
    """Return reasoning-gym.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import reasoning_gym
    except ImportError as error:
        raise MissingDependencyError(
            "this task needs reasoning-gym: pip install 'esamp[reasoning-gym]'"
        ) from error
    return reasoning_gym
