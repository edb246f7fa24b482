"""What a task is: items to sample for, and a judge of what was sampled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True)
class Item:
    """One prompt of a task."""

    id: str
    """Unique within the task; records and reports name items by it."""
    prompt: str
    """What the model is asked, before any chat template."""
    reference: Mapping[str, Any] = field(default_factory=dict)
    """What the grader needs beside the text; JSON data."""


@dataclass(frozen=True, kw_only=True)
class Grade:
    """What a grader says of one sample."""

    correct: bool
    answer: str | None = None
    """The final answer in a normal form, so that equal answers are equal strings; None: none."""
    note: str | None = None
    """Why a sample without a right answer failed, such as "no answer" or "timed out"."""


@runtime_checkable
class Grader(Protocol):
    """Judges samples. It is frozen settings: it is pickled into worker processes."""

    def grade(self, item: Item, text: str) -> Grade:
        """Judge one sample. Hostile text gives a wrong grade with a note, never an exception."""


@runtime_checkable
class Task(Protocol):
    """A set of items, and how they are judged."""

    @property
    def name(self) -> str:
        """Name on the command line and in records."""

    @property
    def grader(self) -> Grader | None:
        """Judge of the samples; None where nothing can be right or wrong."""

    @property
    def plain_text(self) -> bool:
        """Whether prompts are continued as they stand, without the model's chat template."""

    @property
    def private(self) -> bool:
        """Whether the items' text may not be shown in reports."""

    @property
    def max_new_tokens(self) -> int:
        """Tokens of a sample where nothing is said."""

    def load(self, data_file: Path | None, limit: int | None, seed: int) -> Sequence[Item]:
        """Return the items in a fixed order.

        Args:
            data_file: Local file with the Hub set's own columns; None reads the Hub.
            limit: Only that many items, the first ones.
            seed: Of whatever is shuffled within an item.

        Raises:
            UsageError: The file or the set cannot be used; the sentence says what would be.
            MissingDependencyError: A library is missing.
        """
