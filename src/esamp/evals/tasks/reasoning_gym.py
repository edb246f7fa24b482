"""Problems that reasoning-gym makes: checked by its own scoring, of any family, without a download.

Families that small models can partly solve have an easy configuration here; all others have their
own. Chosen so that a model of 135M parameters gets some right and some wrong; source: ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from esamp.errors import UsageError
from esamp.evals.graders.gym import GymGrader, create
from esamp.evals.task import Grader, Item
from esamp.evals.tasks.source import check_limit

ASK = "Think step by step. End with a line `Answer:` and the final answer alone."
PROBLEMS = 100
"""Items where no limit is given."""
EASY: Mapping[str, Mapping[str, Any]] = {
    "chain_sum": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 2},
    "basic_arithmetic": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 2},
    "products": {"min_digits": 1, "max_digits": 2},
    "simple_equations": {"min_terms": 2, "max_terms": 2, "min_value": 1, "max_value": 10},
    "gcd": {"min_value": 2, "max_value": 30},
    "letter_counting": {"min_words": 2, "max_words": 3},
    "number_sequence": {"max_complexity": 1},
    "number_format": {"min_num_candidates": 3, "max_num_candidates": 3},
}


@dataclass(frozen=True, kw_only=True)
class ReasoningGym:
    """One family. The seed is that of its problems."""

    family: str
    grader: Grader | None = field(default_factory=GymGrader)
    plain_text: bool = False
    private: bool = False
    max_new_tokens: int = 256

    @property
    def name(self) -> str:
        """Name on the command line and in records."""
        return f"reasoning-gym:{self.family}"

    def load(self, data_file: Path | None, limit: int | None, seed: int) -> Sequence[Item]:
        """Return the first problems of a seed.

        Raises:
            UsageError: There is no such family, or a data file is given.
            MissingDependencyError: reasoning-gym is not installed.
        """
        if data_file is not None:
            raise UsageError(
                f"{self.name} makes its problems from the seed: leave out --data-file {data_file}"
            )
        check_limit(limit)
        config = dict(EASY.get(self.family, {}))
        count = PROBLEMS if limit is None else limit
        # Of one size always, so that a limit cannot change what the first problems are.
        size = max(count, PROBLEMS)
        problems = create(self.family, config, size, seed)
        return [
            Item(
                id=f"{self.family}-{seed}-{index}",
                prompt=f"{problems[index]['question'].strip()}\n\n{ASK}",
                reference={
                    "family": self.family,
                    "config": config,
                    "seed": seed,
                    "size": size,
                    "index": index,
                },
            )
            for index in range(count)
        ]
