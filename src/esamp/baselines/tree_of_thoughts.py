"""Tree of Thoughts, as the ESamp paper uses it: a way of asking, with plain decoding.

The original (arXiv 2305.10601) searches over partial solutions with many calls. The ESamp paper
(E.4) has one system prompt that asks the model to branch, prune and conclude within one answer; so
do we, in words of our own, before the question, as some models have no system role.
"""

from dataclasses import dataclass

from esamp.baselines.checks import check_count

NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}

WORDS = """\
Think about the task below as a tree. First sketch {branches} clearly different ways to go about \
it. Follow each of them for a few steps, and say of each whether it looks promising or leads \
nowhere. Drop the ways that fail, go on with the best ones, and compare what they give. End with \
one final answer, in the form that the task asks for.

Task:
{prompt}"""


@dataclass(frozen=True, kw_only=True)
class TreeOfThoughts:
    """From a prompt to one that asks for several branches."""

    branches: int = 3
    """Ways that the model is asked to sketch."""

    def __post_init__(self) -> None:
        check_count("branches", self.branches, 2)

    def __call__(self, prompt: str) -> str:
        """Return the prompt that the model is given."""
        branches = NUMBERS.get(self.branches, str(self.branches))
        return WORDS.format(branches=branches, prompt=prompt)
