"""GSM8K: word problems of a few steps with a number as answer."""

from dataclasses import dataclass

from esamp.evals.graders.extract import as_number
from esamp.evals.graders.number import NumberGrader
from esamp.evals.task import Item
from esamp.evals.tasks.rows import RowTask
from esamp.evals.tasks.source import HubSet, Row

ASK = "Solve this problem step by step. End with a line `Answer:` and the number alone."


@dataclass(frozen=True, kw_only=True)
class GSM8K(RowTask):
    """Columns: question; answer, of which what follows the last #### counts, else the whole."""

    def item(self, row: Row, seed: int) -> Item:
        """Return the item that a row is."""
        question = row.text("question")
        number = as_number(row.answer("answer").rpartition("####")[2])
        if number is None:
            raise row.wrong("answer", "a number, or text that ends in #### and a number")
        return Item(id=row.id, prompt=f"{question}\n\n{ASK}", reference={"answer": str(number)})


TASK = GSM8K(
    name="gsm8k",
    source=HubSet(path="openai/gsm8k", config="main", split="test"),
    grader=NumberGrader(),
    max_new_tokens=512,
)
