"""MATH-500: 500 competition problems with answers in LaTeX."""

from esamp.evals.graders.expression import MathGrader
from esamp.evals.tasks.mathematics import MathTask
from esamp.evals.tasks.source import HubSet

TASK = MathTask(
    name="math500",
    source=HubSet(path="HuggingFaceH4/MATH-500", split="test"),
    grader=MathGrader(),
    max_new_tokens=4096,
)
