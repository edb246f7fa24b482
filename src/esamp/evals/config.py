"""What determines the results of a run, and in which order its work is done."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from esamp.errors import UsageError
from esamp.evals.arms import Arm, parse_arm
from esamp.evals.records import Key
from esamp.evals.table import ArmSettings, SummarySettings
from esamp.evals.task import Item

FORMAT = 1
"""Version of the run folder; another one cannot be gone on with."""

ROWS = 128
"""Samples that are decoded together where nothing is said."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that determines what a run records: equal configurations give equal results."""

    task: str
    items: Sequence[str]
    """Identifiers, in order."""
    data: str
    """Hash of the items: their text and references."""
    model: str
    backend: str
    dtype: str
    chat_template: str
    chat_template_kwargs: Mapping[str, Any]
    arms: Sequence[str]
    """Names as `parse_arm` reads them."""
    samples: int
    seeds: Sequence[int]
    max_new_tokens: int
    prompts_at_once: int
    """Prompts of a batch, the unit that is generated, written and done again whole."""
    embedders: Sequence[str]
    scorers: Sequence[str]
    score_samples: int | None = None
    """How many samples of a group the scorers read, the first ones; None: all. Reading costs as
    much as writing, and with a larger scorer more."""
    embedder_dtype: str | None = None
    """What embedders compute in; None: in what their weights are stored in."""
    diagnostics: bool = False
    """Whether reference log-probabilities are recorded, at the price of a second projection."""
    verifiable: bool = False
    private: bool = False
    plain_text: bool = False
    format: int = FORMAT

    def __post_init__(self) -> None:
        for name in ("samples", "max_new_tokens", "prompts_at_once"):
            if getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise UsageError(f"{option} is {getattr(self, name)}: give 1 or more")
        if self.score_samples is not None and self.score_samples < 1:
            raise UsageError(
                f"score-samples is {self.score_samples}: give 1 or more, or --scorer none"
            )
        needed = ("items", "arms", "seeds")
        for name in (*needed, "embedders", "scorers"):
            values = list(getattr(self, name))
            twice = next((each for each in values if values.count(each) > 1), None)
            if not values and name in needed:
                raise UsageError(f"there are no {name}: give at least one")
            if twice is not None:
                raise UsageError(f"{twice!r} is twice among the {name}: give each once")
        for arm in map(parse_arm, self.arms):
            if arm.matched_to is not None and arm.matched_to not in self.arms:
                raise UsageError(
                    f"arm {arm.name} is matched to {arm.matched_to}, which this run does not have: "
                    f"add --arm '{arm.matched_to}'"
                )

    def to_json(self) -> dict[str, Any]:
        """Return JSON data."""
        return dataclasses.asdict(self)

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Say in which settings a stored configuration differs from this one."""
        return [
            f"{name}: {_short(there)} there, {_short(now)} now"
            for name, there, now in self._different(other)
        ]

    def _different(self, other: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
        mine = json.loads(json.dumps(self.to_json()))
        names = [*mine, *(name for name in other if name not in mine)]
        pairs = [(name, other.get(name), mine.get(name)) for name in names]
        return [(name, there, now) for name, there, now in pairs if there != now]

    def goes_on_from(self, other: Mapping[str, Any], done: Sequence[Key]) -> bool:
        """Return whether what was done under a stored configuration is the beginning of this run.

        Arms and seeds may come or go at the end, since they are done one after another.
        """
        keys = chain.from_iterable(batch.keys for batch in self.batches())
        return list(islice(keys, len(done))) == done and all(
            name in ("arms", "seeds") for name, _, _ in self._different(other)
        )

    def batches(self) -> Iterator["Batch"]:
        """Yield all batches in the order in which they are done: seed by seed, arm by arm.

        An arm that is matched to another comes after it, so that the other's entropy is known.
        """
        arms = [parse_arm(name) for name in self.arms]
        ordered = [arm for arm in arms if arm.matched_to is None]
        ordered += [arm for arm in arms if arm.matched_to is not None]
        for seed in self.seeds:
            for arm in ordered:
                for number, start in enumerate(range(0, len(self.items), self.prompts_at_once)):
                    items = self.items[start : start + self.prompts_at_once]
                    yield Batch(arm=arm, seed=seed, number=number, items=items)

    def summary_settings(self, temperatures: Mapping[str, float]) -> SummarySettings:
        """Return what the summary needs; `temperatures` are those found for matched arms."""
        arms = [parse_arm(name) for name in self.arms]
        return SummarySettings(
            task=self.task,
            model=self.model,
            backend=self.backend,
            samples=self.samples,
            seeds=self.seeds,
            items=self.items,
            arms=[
                ArmSettings(name=arm.name, temperature=temperatures.get(arm.name, arm.temperature))
                for arm in arms
            ],
            embedders=self.embedders,
            scorers=self.scorers,
            verifiable=self.verifiable,
            private=self.private,
        )


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What is generated in one call, and written together."""

    arm: Arm
    seed: int
    number: int
    items: Sequence[str]

    @property
    def keys(self) -> list[Key]:
        """The records that it gives, in order."""
        return [Key(self.arm.name, self.seed, item) for item in self.items]


def hash_items(items: Sequence[Item]) -> str:
    """Return a hash of all that the items say."""
    data = [[item.id, item.prompt, dict(item.reference)] for item in items]
    text = json.dumps(data, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
