"""LiveCodeBench v5: the 167 problems that its fifth release added. Source: paper, section 5."""

import json
from dataclasses import dataclass
from typing import Any

from esamp.evals.graders.code import LiveCodeBenchGrader
from esamp.evals.task import Item
from esamp.evals.tasks.rows import RowTask
from esamp.evals.tasks.source import HubSet, Row

ASK_PROGRAM = (
    "Solve this problem with a Python program that reads its input from stdin and prints its "
    "output to stdout. Reply with the program in one fenced block."
)
ASK_FUNCTION = (
    "Solve this problem in Python by completing the code below it, keeping its names. Reply with "
    "the whole code in one fenced block."
)


@dataclass(frozen=True, kw_only=True)
class LiveCodeBench(RowTask):
    """Columns: question_content, starter_code, public_test_cases, private_test_cases, metadata."""

    def item(self, row: Row, seed: int) -> Item:
        """Return the item that a row is; its private tests stay packed until they are needed."""
        question = row.text("question_content").strip()
        starter = row.optional_text("starter_code").strip("\n")
        public, private = row.text("public_test_cases"), row.text("private_test_cases")
        metadata = self._json(row, "metadata", dict) if row.optional_text("metadata") else {}
        for case in self._json(row, "public_test_cases", list):
            if not (isinstance(case, dict) and {"input", "output"} <= case.keys()):
                raise row.wrong("public_test_cases", "a JSON list of objects with input and output")
        function = metadata.get("func_name") if starter else None
        if starter and not function:
            raise row.wrong("metadata", "a JSON object that names the function as func_name")
        prompt = f"{ASK_PROGRAM}\n\n{question}"
        if starter:
            prompt = f"{ASK_FUNCTION}\n\n{question}\n\n```python\n{starter}\n```"
        reference = {"public": public, "private": private, "function": function}
        return Item(id=row.id, prompt=prompt, reference=reference)

    @staticmethod
    def _json(row: Row, name: str, kind: type) -> Any:
        """Return the JSON data in a column of text."""
        try:
            value = json.loads(row.text(name))
        except json.JSONDecodeError as error:
            raise row.wrong(name, "JSON") from error
        if not isinstance(value, kind):
            raise row.wrong(name, f"JSON of a {kind.__name__}")
        return value


TASK = LiveCodeBench(
    name="livecodebench-v5",
    source=HubSet(path="lighteval/code_generation_lite", config="v5", split="test"),
    grader=LiveCodeBenchGrader(),
    # The paper's context of 4096 tokens, less a problem.
    max_new_tokens=3072,
)
