"""What tasks that read a data set have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from esamp.errors import UsageError
from esamp.evals.task import Grader, Item
from esamp.evals.tasks.source import HubSet, Row, read_rows


@dataclass(frozen=True, kw_only=True)
class RowTask(ABC):
    """A task whose items are rows of a data set."""

    name: str
    source: HubSet | Path
    """Where rows come from without a data file."""
    grader: Grader | None = None
    plain_text: bool = False
    private: bool = False
    max_new_tokens: int

    @abstractmethod
    def item(self, row: Row, seed: int) -> Item:
        """Return the item that a row is.

        Raises:
            UsageError: A column is missing or wrong.
        """

    def load(self, data_file: Path | None, limit: int | None, seed: int) -> Sequence[Item]:
        """Return the items in the order of the data set."""
        items: dict[str, Item] = {}
        for row in read_rows(data_file or self.source, limit):
            item = self.item(row, seed)
            if item.id in items:
                raise UsageError(
                    f"{row.where}: id {item.id!r} is there twice, give each row an id of its own"
                )
            items[item.id] = item
        return list(items.values())
