"""MBPP: short functions, each given by a sentence and a few assertions."""

from dataclasses import dataclass

from esamp.evals.graders.code import MBPPGrader
from esamp.evals.task import Item
from esamp.evals.tasks.rows import RowTask
from esamp.evals.tasks.source import HubSet, Row

ASK = "Write it in Python so that these tests pass, in one fenced block."


@dataclass(frozen=True, kw_only=True)
class MBPP(RowTask):
    """Columns: text (in the sanitized part: prompt), test_list; test_setup_code or test_imports."""

    def item(self, row: Row, seed: int) -> Item:
        """Return the item that a row is."""
        tests = row.texts("test_list")
        if not tests:
            raise row.wrong("test_list", "at least one test")
        imports = row.texts("test_imports") if "test_imports" in row.values else []
        setup = "\n".join([*imports, row.optional_text("test_setup_code")])
        block = "\n".join(tests)
        prompt = f"{row.text('text', 'prompt').strip()} {ASK}\n\n```python\n{block}\n```"
        return Item(id=row.id, prompt=prompt, reference={"setup": setup, "tests": tests})


TASK = MBPP(
    name="mbpp",
    source=HubSet(path="google-research-datasets/mbpp", config="full", split="test"),
    grader=MBPPGrader(),
    max_new_tokens=512,
)
