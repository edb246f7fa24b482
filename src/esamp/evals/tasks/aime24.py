"""AIME 2024: 30 problems with answers from 0 to 999. Source: paper, section 5."""

from esamp.evals.graders.expression import MathGrader
from esamp.evals.tasks.mathematics import AIME
from esamp.evals.tasks.source import HubSet

TASK = AIME(
    name="aime24",
    source=HubSet(path="HuggingFaceH4/aime_2024", split="train"),
    grader=MathGrader(integers=True),
)
