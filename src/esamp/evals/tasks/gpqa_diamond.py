"""GPQA-Diamond: 198 questions of science with four options. Gated, and its text stays private."""

import random
from dataclasses import dataclass

from esamp.evals.graders.choice import ChoiceGrader
from esamp.evals.task import Item
from esamp.evals.tasks.rows import RowTask
from esamp.evals.tasks.source import HubSet, Row

ASK = (
    "Choose the right option. Think step by step, then end with a line `Answer: X`, where X is one "
    "of the letters A, B, C, D."
)
LETTERS = "ABCD"


@dataclass(frozen=True, kw_only=True)
class GPQA(RowTask):
    """Columns: Question, Correct Answer, Incorrect Answer 1 to 3."""

    private: bool = True

    def item(self, row: Row, seed: int) -> Item:
        """Return the item that a row is, its options in an order of seed and id alone."""
        right = row.text("Correct Answer").strip()
        options = [right, *(row.text(f"Incorrect Answer {each}").strip() for each in (1, 2, 3))]
        order = list(range(len(options)))
        random.Random(f"{seed} {row.id}").shuffle(order)
        lines = [f"{letter}) {options[each]}" for letter, each in zip(LETTERS, order, strict=True)]
        prompt = "\n\n".join([ASK, row.text("Question").strip(), "\n".join(lines)])
        reference = {"answer": LETTERS[order.index(0)], "choices": len(options)}
        return Item(id=row.id, prompt=prompt, reference=reference)


TASK = GPQA(
    name="gpqa-diamond",
    source=HubSet(path="Idavidrein/gpqa", config="gpqa_diamond", split="train", gated=True),
    grader=ChoiceGrader(),
    # The paper's context of 4096 tokens, less a question.
    max_new_tokens=3072,
)
