"""AIME 2025: 30 problems with answers from 0 to 999. Source: paper, section 5."""

import re
from dataclasses import dataclass

from esamp.evals.graders.expression import MathGrader
from esamp.evals.tasks.mathematics import AIME
from esamp.evals.tasks.source import HubSet

# In some copies \f and \t of LaTeX commands were read as escapes. What follows tells them from
# real white space; \b and \r went the same way where they did.
BROKEN = re.compile(
    r"\f(?=rac|box|orall|loor)|\t(?=imes|ext|heta|riangle|frac|an\b|au\b|o\b|op\b)"
    r"|\x08(?=egin|inom|oxed|ar\b|eta\b|ig|mod\b|ullet)|\r(?=ight|angle|floor|ceil|ho\b)"
)
LETTER = {"\f": r"\f", "\t": r"\t", "\x08": r"\b", "\r": r"\r"}


@dataclass(frozen=True, kw_only=True)
class AIME25(AIME):
    """The set with its broken escapes mended."""

    def mend(self, problem: str) -> str:
        """Return the problem with its LaTeX commands whole again."""
        return BROKEN.sub(lambda match: LETTER[match[0]], problem)


TASK = AIME25(
    name="aime25",
    source=HubSet(path="yentinglin/aime_2025", split="train"),
    grader=MathGrader(integers=True),
)
