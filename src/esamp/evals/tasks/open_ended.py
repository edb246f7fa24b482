"""Open-ended prompts: questions with many good answers. Without a data file: 24 of our own."""

from dataclasses import dataclass
from pathlib import Path

from esamp.evals.task import Item
from esamp.evals.tasks.rows import RowTask
from esamp.evals.tasks.source import Row


@dataclass(frozen=True, kw_only=True)
class OpenEnded(RowTask):
    """Column: prompt."""

    def item(self, row: Row, seed: int) -> Item:
        """Return the item that a row is."""
        return Item(id=row.id, prompt=row.text("prompt"))


TASK = OpenEnded(
    name="open-ended",
    source=Path(__file__).with_name("open_ended.jsonl"),
    max_new_tokens=256,
)
