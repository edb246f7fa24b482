"""A run: generate, grade beside it, measure, sum up. Each stage goes on where it was cut.

    generate   batch by batch in the order that the configuration fixes; a batch is written whole
    grade      in worker processes, while the next batches are generated
    measure    group by group, once all is generated: models of the measures load after that
    sum up     from measures and grades alone

What is on disk is always a prefix of what will be, and each batch depends on the configuration and
on nothing before it, so the results do not depend on where a run was cut.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Protocol, runtime_checkable

from esamp.evals.calibration import Calibrated, calibrate
from esamp.evals.config import Batch, RunConfig
from esamp.evals.embedding import Embed
from esamp.evals.folder import CALIBRATION, Log, RunFolder
from esamp.evals.measure import measure_group
from esamp.evals.records import GroupRecord, Key, SampleRecord
from esamp.evals.scoring import Scorer
from esamp.evals.summary import summarise
from esamp.evals.task import Grade, Item
from esamp.generation import Generation, Progress, Request, SpeakingGenerator

WAITING = 64
"""Groups whose grades may be outstanding: beyond it, generation waits for the oldest."""


@runtime_checkable
class Grading(Protocol):
    """Grades samples elsewhere, while this process goes on."""

    def submit(self, item: Item, texts: Sequence[str]) -> Future[list[Grade]]:
        """Begin to grade the samples of one item."""


@dataclass(frozen=True, kw_only=True)
class Measurers:
    """What measuring needs, by the names in the configuration."""

    embedders: Mapping[str, Embed]
    scorers: Mapping[str, Scorer]


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What a run works with; each is made when it is first needed, and so only if it is."""

    generator: Callable[[], SpeakingGenerator]
    grading: Callable[[], AbstractContextManager[Grading]] | None
    """None where nothing can be right or wrong."""
    measurers: Callable[[], Measurers]
    progress: Callable[[str], AbstractContextManager[Progress]]
    """Shows how far a stage is, given its name."""


def run(
    config: RunConfig, items: Sequence[Item], tools: Tools, folder: RunFolder
) -> dict[str, Any]:
    """Do all of a run that is not done yet, and return its summary.

    Raises:
        UsageError: The folder holds something else, or a request cannot be served.
        ModelError: A model cannot be loaded or steered.
        EsampError: The disk is full; what was done stays.
    """
    by_id = {item.id: item for item in items}
    batches = list(config.batches())
    generated = folder.samples.resume([batch.keys for batch in batches])
    groups = [[key] for batch in batches for key in batch.keys]
    graded = folder.grades.resume(groups) if tools.grading is not None else len(groups)
    folder.timings.mend()
    with _open_grades(tools, folder.grades, graded < len(groups)) as grades:
        if grades is not None:
            for line in folder.samples.lines(graded):
                record = GroupRecord.from_json(line)
                texts = [sample.text for sample in record.samples]
                grades.submit(by_id[record.item], record.key, texts)
        if generated < len(batches):
            stage = _Generating(config, by_id, tools.generator(), folder, grades)
            with tools.progress("generating") as progress:
                stage.run(batches, generated, progress)
    _measure(config, by_id, tools, folder)
    return sum_up(config, folder)


def sum_up(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
    """Write the summary and the timings of what is measured, and return the summary.

    Raises:
        EsampError: The disk is full.
    """
    temperatures = {name: each.temperature for name, each in _read_calibration(folder).items()}
    summary = summarise(
        config.summary_settings(temperatures), folder.measures.lines(), folder.grades.lines()
    )
    folder.write("summary.json", summary)
    folder.write("timings.json", _timings(config, folder))
    return summary


@dataclass(kw_only=True)
class Grades:
    """Grades groups in order, some behind generation."""

    grading: Grading
    log: Log
    waiting: deque[tuple[Key, Future[list[Grade]]]] = field(default_factory=deque)

    def submit(self, item: Item, key: Key, texts: Sequence[str]) -> None:
        """Begin with a group, and write what is ready."""
        self.waiting.append((key, self.grading.submit(item, texts)))
        while self.waiting and (len(self.waiting) > WAITING or self.waiting[0][1].done()):
            self.write_oldest()

    def write_oldest(self) -> None:
        """Wait for the oldest group, and write its grades."""
        key, grades = self.waiting.popleft()
        self.log.append([key._asdict() | {"grades": [asdict(each) for each in grades.result()]}])


@contextmanager
def _open_grades(tools: Tools, log: Log, missing: bool) -> Iterator[Grades | None]:
    """Give what grades; on leaving, wait until all that was begun is written."""
    if tools.grading is None or not missing:
        yield None
        return
    with tools.grading() as grading:
        grades = Grades(grading=grading, log=log)
        yield grades
        with tools.progress("grading") as progress:
            begun = len(grades.waiting)
            while grades.waiting:
                grades.write_oldest()
                progress(1 - len(grades.waiting) / begun)


@dataclass(frozen=True)
class _Generating:
    """The stage that needs the model."""

    config: RunConfig
    items: Mapping[str, Item]
    generator: SpeakingGenerator
    folder: RunFolder
    grades: Grades | None

    def run(self, batches: Sequence[Batch], done: int, progress: Progress) -> None:
        """Generate all batches after those that are done."""
        for number, batch in enumerate(batches[done:], done):

            def share(within: float, number: int = number) -> None:
                progress((number + within) / len(batches))

            temperature = self._temperature(batch)
            generation = self._decode(batch, temperature, share)
            self.folder.samples.append(self._lines(batch, generation))
            self.folder.timings.append([_timing(batch, generation)])
            if self.grades is not None:
                for key, completions in zip(batch.keys, generation.completions, strict=True):
                    texts = [each.text for each in completions]
                    self.grades.submit(self.items[key.item], key, texts)

    def _decode(
        self, batch: Batch, temperature: float | None, progress: Progress | None = None
    ) -> Generation:
        ask = batch.arm.strategy or str
        request = Request(
            prompts=[ask(self.items[item].prompt) for item in batch.items],
            samples=self.config.samples,
            sampling=batch.arm.sampling(self.config.max_new_tokens, temperature),
            seed=batch.seed,
            diagnostics=self.config.diagnostics,
        )
        return self.generator.generate(request, batch.arm.method, progress)

    def _lines(self, batch: Batch, generation: Generation) -> Iterator[dict[str, Any]]:
        """Yield the record of each group as JSON data, made when it is asked for."""
        errors = [
            None if error is None else round(error, 4) for error in generation.stats.distiller_error
        ]
        for key, completions in zip(batch.keys, generation.completions, strict=True):
            record = GroupRecord(
                arm=key.arm,
                seed=key.seed,
                item=key.item,
                batch=batch.number,
                samples=[
                    SampleRecord.of(each, self.generator.pieces(each.token_ids))
                    for each in completions
                ],
                distiller_error=errors,
            )
            yield record.to_json()

    def _temperature(self, batch: Batch) -> float | None:
        """Return the temperature of an arm that is matched to another, found once a run."""
        if batch.arm.matched_to is None:
            return None
        calibrated = _read_calibration(self.folder)
        if batch.arm.name not in calibrated:
            # On this arm's first batch, which the other arm has decoded already.
            target = self._entropy_of(batch.arm.matched_to, batch)
            calibrated[batch.arm.name] = calibrate(
                lambda temperature: self._entropy_at(batch, temperature), target
            )
            data = {name: asdict(each) for name, each in calibrated.items()}
            self.folder.write(CALIBRATION, data)
        return calibrated[batch.arm.name].temperature

    def _entropy_of(self, arm: str, batch: Batch) -> float:
        """Return the realised entropy of an arm on the same seed and items as a batch."""
        start = 0
        for each in self.config.batches():
            if (each.arm.name, each.seed, each.number) == (arm, batch.seed, batch.number):
                break
            start += len(each.items)
        lines = islice(self.folder.samples.lines(start), len(batch.items))
        samples = [each for line in lines for each in GroupRecord.from_json(line).samples]
        return -sum(each.logprob for each in samples) / sum(each.tokens for each in samples)

    def _entropy_at(self, batch: Batch, temperature: float) -> float:
        generation = self._decode(batch, temperature)
        drawn = [each for group in generation.completions for each in group]
        return -sum(sum(each.logprobs) for each in drawn) / sum(len(e.token_ids) for e in drawn)


def _read_calibration(folder: RunFolder) -> dict[str, Calibrated]:
    if not folder.has(CALIBRATION):
        return {}
    return {name: Calibrated(**each) for name, each in folder.read(CALIBRATION).items()}


def _measure(config: RunConfig, items: Mapping[str, Item], tools: Tools, folder: RunFolder) -> None:
    keys = [[key] for batch in config.batches() for key in batch.keys]
    done = folder.measures.resume(keys)
    if done == len(keys):
        return
    measurers = tools.measurers()
    with tools.progress("measuring") as progress:
        for place, line in enumerate(folder.samples.lines(done), done):
            record = GroupRecord.from_json(line)
            measures = measure_group(
                record,
                items[record.item],
                measurers.embedders,
                measurers.scorers,
                plain_text=config.plain_text,
                score_samples=config.score_samples,
            )
            folder.measures.append([record.key._asdict() | {"measures": measures}])
            progress((place + 1) / len(keys))


def _timing(batch: Batch, generation: Generation) -> dict[str, Any]:
    return {
        "arm": batch.arm.name,
        "seed": batch.seed,
        "item": str(batch.number),
        "tokens": generation.stats.tokens,
        "seconds": generation.stats.seconds,
    }


def _timings(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
    """Return each arm's tokens a second; a batch that was done twice is counted once."""
    latest = {(line["arm"], line["seed"], line["item"]): line for line in folder.timings.lines()}
    arms = []
    for arm in config.arms:
        mine = [line for (name, _, _), line in latest.items() if name == arm]
        seconds = sum(line["seconds"] for line in mine)
        tokens = sum(line["tokens"] for line in mine)
        arms.append({"arm": arm, "tokens_per_second": tokens / seconds if seconds else None})
    return {"arms": arms}
