"""HumanEval: 164 functions, each given by its signature and docstring."""

from dataclasses import dataclass

from esamp.evals.graders.code import HumanEvalGrader
from esamp.evals.task import Item
from esamp.evals.tasks.rows import RowTask
from esamp.evals.tasks.source import HubSet, Row

ASK = "Complete this function. Reply with the whole function in one fenced block of Python."


@dataclass(frozen=True, kw_only=True)
class HumanEval(RowTask):
    """Columns: prompt, test, entry_point."""

    def item(self, row: Row, seed: int) -> Item:
        """Return the item that a row is."""
        reference = {name: row.text(name) for name in ("prompt", "test", "entry_point")}
        prompt = f"{ASK}\n\n```python\n{reference['prompt'].strip()}\n```"
        return Item(id=row.id, prompt=prompt, reference=reference)


TASK = HumanEval(
    name="humaneval",
    source=HubSet(path="openai/openai_humaneval", split="test"),
    grader=HumanEvalGrader(),
    max_new_tokens=512,
)
