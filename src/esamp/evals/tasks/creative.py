"""Creative continuation of books. Source: paper, section 5.1 and appendix E.1.

Each text is split in the middle; the prompt is the last 32 words of its first half, without a chat
template, and samples have 512 tokens. The paper samples 2,000 texts with seed 42 and does not say
how; ours are other ones.
"""

from dataclasses import dataclass

from esamp.evals.task import Item
from esamp.evals.tasks.rows import RowTask
from esamp.evals.tasks.source import HubSet, Row

WORDS = 32
TEXTS = 2000


@dataclass(frozen=True, kw_only=True)
class Creative(RowTask):
    """Columns: prompt, which is continued as it stands, or context, which is a whole text."""

    plain_text: bool = True

    def item(self, row: Row, seed: int) -> Item:
        """Return the item that a row is."""
        if "prompt" in row.values:
            return Item(id=row.id, prompt=row.text("prompt"))
        words = row.text("prompt", "context").split()
        first_half = words[: len(words) // 2]
        if not first_half:
            raise row.wrong("context", "a text of two words or more")
        return Item(id=row.id, prompt=" ".join(first_half[-WORDS:]))


TASK = Creative(
    name="creative",
    source=HubSet(
        path="incredible45/Gutenberg-BookCorpus-Cleaned-Data-English", split="train", sample=TEXTS
    ),
    max_new_tokens=512,
)
