"""What tasks of mathematics have in common."""

from dataclasses import dataclass

from esamp.evals.task import Item
from esamp.evals.tasks.rows import RowTask
from esamp.evals.tasks.source import Row

ASK = (
    "Solve this problem step by step. Put nothing but the final answer into \\boxed{} on your last "
    "line."
)


@dataclass(frozen=True, kw_only=True)
class MathTask(RowTask):
    """Problems with one answer each. Columns: problem, answer."""

    def item(self, row: Row, seed: int) -> Item:
        """Return the item that a row is."""
        problem = self.mend(row.text("problem", "Problem"))
        answer = row.answer("answer", "Answer")
        self.check(row, answer)
        return Item(id=row.id, prompt=f"{ASK}\n\n{problem}", reference={"answer": answer})

    def mend(self, problem: str) -> str:
        """Return the problem without its set's known mistakes."""
        return problem

    def check(self, row: Row, answer: str) -> None:
        """Raise if an answer cannot be one."""


@dataclass(frozen=True, kw_only=True)
class AIME(MathTask):
    """Problems whose answers are whole numbers from 0 to 999, in some copies padded with zeros."""

    # The paper's context of 8192 tokens, less a problem.
    max_new_tokens: int = 7680

    def check(self, row: Row, answer: str) -> None:
        """Raise if an answer is no such number."""
        if not (answer.isascii() and answer.isdigit() and int(answer) <= 999):
            raise row.wrong("answer", "a whole number from 0 to 999")
