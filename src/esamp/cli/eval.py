"""`esamp eval`: arms side by side on one task, into a run folder that can be gone on with."""

import dataclasses
import importlib.metadata
import json as stdlib_json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from esamp.backends.precision import DTYPES, choose_dtype
from esamp.backends.text import ChatTemplate
from esamp.cli.backend import load_generator
from esamp.cli.console import machine, only_data_on_stdout, progress_bar
from esamp.cli.eval_table import show
from esamp.cli.settings import BackendName
from esamp.errors import MissingDependencyError, UsageError
from esamp.evals.arms import parse_arm
from esamp.evals.config import ROWS, RunConfig, hash_items
from esamp.evals.embedding import Embed, load_embedder
from esamp.evals.folder import RunFolder
from esamp.evals.graders.pool import GradingPool
from esamp.evals.paper import FILE as PAPER
from esamp.evals.paper import measures_of, read_paper
from esamp.evals.run import Measurers, Tools, run
from esamp.evals.scoring import OWN, Scorer
from esamp.evals.task import Task
from esamp.evals.tasks import find_task
from esamp.generation import SpeakingGenerator

MINILM = "all-MiniLM-L6-v2"
NONE = "none"
KINDS = {int: "a whole number", bool: "true or false", str: "text"}
NARROWING = ("task", "arm", "samples", "embedder", "scorer")
"""Options that may take away what a file has numbers of the paper for."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `esamp eval` is asked for, by options and by --config; names as in the options."""

    task: str
    arm: Sequence[str] = ("vanilla", "esamp")
    data_file: Path | None = None
    limit: int | None = None
    samples: int = 16
    seeds: Sequence[int] = (0,)
    model: str | None = None
    backend: BackendName = "transformers"
    dtype: str = "auto"
    chat_template: ChatTemplate = "auto"
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    embedder: Sequence[str] = (MINILM,)
    embedder_dtype: str | None = None
    scorer: Sequence[str] = (OWN,)
    score_samples: int | None = None
    max_new_tokens: int | None = None
    prompts_at_once: int | None = None
    diagnostics: bool = False
    unsafe_code: bool = False
    paper: Mapping[str, Any] = field(default_factory=dict)
    """Numbers of the paper to show beside, see `esamp.evals.paper`; in files only."""

    def __post_init__(self) -> None:
        if self.diagnostics and self.backend == "vllm":
            raise UsageError(
                "diagnostics need the reference logits of every token: use --backend transformers"
            )


def evaluate(  # noqa: PLR0913  (one parameter per option: typer reads them)
    task: Annotated[
        str | None, typer.Argument(help="Such as gsm8k, open-ended or reasoning-gym:gcd.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; one that is there is gone on with.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file with these options; those given here override it."),
    ] = None,
    arm: Annotated[
        list[str] | None, typer.Option(help='Such as "esamp(beta=0.25)"; give several.')
    ] = None,
    data_file: Annotated[
        Path | None, typer.Option(help="JSONL (or .gz) with the Hub set's own columns.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many items.")] = None,
    samples: Annotated[int | None, typer.Option(help="Samples of each item; 16.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Such as 0,1,2.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Hub id, folder or .gguf; left out: SmolLM2-135M-Instruct.")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="transformers or vllm.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, bfloat16, float16 or float32.")] = None,
    chat_template: Annotated[
        str | None, typer.Option(help="auto, or none: prompts as they are.")
    ] = None,
    chat_template_kwargs: Annotated[
        str | None, typer.Option(help='What it is told, such as {"enable_thinking": false}.')
    ] = None,
    embedder: Annotated[
        list[str] | None,
        typer.Option(help=f"What diversity is measured on; {MINILM}. Several; none: no."),
    ] = None,
    embedder_dtype: Annotated[
        str | None, typer.Option(help="As --dtype; left out: what their weights are stored in.")
    ] = None,
    scorer: Annotated[
        list[str] | None,
        typer.Option(
            help="Whose perplexity; own: the model's. Hub id, folder or .gguf. Several; none: no."
        ),
    ] = None,
    score_samples: Annotated[
        int | None, typer.Option(help="How many samples of each item scorers read; all.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Left out: the task's.")] = None,
    prompts_at_once: Annotated[
        int | None, typer.Option(help="Prompts of a batch; left out: 128 rows.")
    ] = None,
    diagnostics: Annotated[
        bool | None, typer.Option("--diagnostics", help="Also KL from the unsteered model.")
    ] = None,
    unsafe_code: Annotated[
        bool | None, typer.Option("--unsafe-code", help="Run samples' code without a sandbox.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The summary on stdout.")] = False,
) -> None:
    """Compare arms on a task: generate, grade, measure, sum up."""
    given = {
        name: value
        for name, value in locals().items()
        if name not in ("out", "config", "json") and value is not None
    }
    settings = merge({} if config is None else read_config(config), given)
    folder_path = out or (None if config is None else Path("runs") / config.stem)
    if folder_path is None:
        raise UsageError("there is no folder to write to: give --out DIR")
    with only_data_on_stdout():
        prepared = prepare(settings, narrowed=not given.keys().isdisjoint(NARROWING))
        with RunFolder.open(folder_path, prepared.config) as folder:
            folder.write_environment(environment())
            folder.write_items(prepared.items, private=prepared.config.private)
            if prepared.paper:
                folder.write(PAPER, prepared.paper)
            summary = run(prepared.config, prepared.items, prepared.tools(), folder)
    show(summary, folder, json=json)


def read_config(path: Path) -> dict[str, Any]:
    """Read a YAML file of options.

    Raises:
        UsageError: It is missing, no YAML, or no mapping.
        MissingDependencyError: PyYAML is missing.
    """
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError("--config needs PyYAML: pip install 'esamp[eval]'") from error
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise UsageError(f"{path} holds no settings: write `option: value` lines")
    return {str(name).replace("-", "_"): value for name, value in data.items()}


def merge(stored: Mapping[str, Any], given: Mapping[str, Any]) -> Settings:
    """Return the settings of a file with those of the command line over them.

    Raises:
        UsageError: A setting is unknown or of the wrong type, or there is no task.
    """
    values = dict(stored) | dict(given)
    kinds = {each.name: each.type for each in dataclasses.fields(Settings)}
    for name, value in values.items():
        if name not in kinds:
            raise UsageError(f"there is no option {name!r}: give some of {', '.join(kinds)}")
        values[name] = _convert(name, value, kinds[name])
    if "task" not in values:
        raise UsageError("there is no task: give one, such as open-ended or reasoning-gym:gcd")
    return Settings(**values)


def _convert(name: str, value: Any, kind: Any) -> Any:
    """Return a value of YAML or of the command line as a setting's type."""
    if kind == Sequence[int]:
        parts = value if isinstance(value, list) else str(value).split(",")
        try:
            return tuple(int(str(part)) for part in parts)
        except ValueError:
            raise UsageError(f"{name} is {value!r}: give whole numbers, such as 0,1,2") from None
    if value is None:
        raise UsageError(f"{name} is empty: give it a value, or leave it out")
    if kind == Sequence[str]:
        return tuple(str(each) for each in (value if isinstance(value, list) else [value]))
    if kind == Path | None:
        return Path(str(value))
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            option, allowed = name.replace("_", "-"), ", ".join(get_args(kind))
            raise UsageError(f"{option} is {value!r}: give one of {allowed}")
        return value
    if kind == Mapping[str, Any]:
        return _mapping(name, value)
    wanted = {int: int, int | None: int, bool: bool}.get(kind, str)
    if type(value) is not wanted:
        raise UsageError(f"{name} is {value!r}: give {KINDS[wanted]}")
    return value


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    found = value
    if isinstance(value, str):
        try:
            found = stdlib_json.loads(value)
        except ValueError:
            found = None
    if not isinstance(found, dict):
        raise UsageError(f"{name} is {value!r}: give a JSON object")
    return found


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run that was checked as far as is possible without a model."""

    settings: Settings
    task: Task
    items: Sequence[Any]
    config: RunConfig
    chat_template: ChatTemplate
    paper: Mapping[str, Mapping[str, float]]
    """By arm and measure, as in paper.json."""
    loaded: list[SpeakingGenerator] = field(default_factory=list)

    def tools(self) -> Tools:
        """Return what the run works with."""
        grader = self.task.grader
        return Tools(
            generator=self._generator,
            grading=None if grader is None else lambda: GradingPool(grader),
            measurers=self._measurers,
            progress=progress_bar,
        )

    def _generator(self) -> SpeakingGenerator:
        config = self.config
        self._look_for_measures()
        generator = load_generator(
            self.settings.backend,
            self.settings.model,
            config.dtype,
            self.chat_template,
            config.chat_template_kwargs,
        )
        self.loaded.append(generator)
        return generator

    def _look_for_measures(self) -> None:
        """See that what will measure can be had: another name, hours later, is another run."""
        from esamp.backends.transformers.load import look_for

        for name in self.config.embedders:
            load_embedder(None if name == MINILM else name, device="cpu")
        for name in self.config.scorers:
            if name != OWN:
                look_for(name)

    def _measurers(self) -> Measurers:
        asked = self.config.embedder_dtype
        dtype = None if asked is None else DTYPES[asked]
        embedders: dict[str, Embed] = {
            name: load_embedder(None if name == MINILM else name, dtype)
            for name in self.config.embedders
        }
        return Measurers(
            embedders=embedders, scorers={name: self._scorer(name) for name in self.config.scorers}
        )

    def _scorer(self, name: str) -> Scorer:
        from esamp.backends.transformers.generator import TransformersGenerator
        from esamp.backends.transformers.scorer import TransformersScorer

        if name != OWN:
            return TransformersScorer.load(name, dtype=self.config.dtype)
        for generator in self.loaded:
            if isinstance(generator, TransformersGenerator):
                return TransformersScorer(
                    model=generator.model,
                    tokenizer=generator.tokenizer,
                    own=True,
                    chat_template=generator.chat_template,
                    chat_template_kwargs=generator.chat_template_kwargs,
                )
        return TransformersScorer.load(
            self.settings.model,
            own=True,
            dtype=self.config.dtype,
            chat_template=self.chat_template,
            chat_template_kwargs=self.config.chat_template_kwargs,
        )


def prepare(settings: Settings, *, narrowed: bool = False) -> Prepared:
    """Check a run and read its items, before a model is loaded.

    Args:
        settings: Of the run.
        narrowed: Whether options took away some of what the file asks for; numbers of the paper
            that have no place any more are left out then.

    Raises:
        UsageError: Something that was asked for does not exist, or does not go together.
        MissingDependencyError: A library or a sandbox is missing.
    """
    from esamp.backends.transformers.load import DEMO_MODEL

    arms = [parse_arm(text) for text in settings.arm]
    for arm in arms:
        if settings.backend == "vllm" and not arm.runs_on_vllm:
            raise UsageError(f"arm {arm.name} does not run on vLLM: use --backend transformers")
    task = find_task(settings.task, unsafe_code=settings.unsafe_code)
    paper = paper_of(settings, task, partly=narrowed)
    items = task.load(settings.data_file, settings.limit, 0)
    chat_template: ChatTemplate = "none" if task.plain_text else settings.chat_template
    config = RunConfig(
        task=task.name,
        items=[item.id for item in items],
        data=hash_items(items),
        model=settings.model or DEMO_MODEL,
        backend=settings.backend,
        dtype=choose_dtype(settings.dtype),
        chat_template=chat_template,
        chat_template_kwargs=settings.chat_template_kwargs,
        arms=[arm.name for arm in arms],
        samples=settings.samples,
        seeds=list(settings.seeds),
        max_new_tokens=_given(settings.max_new_tokens, task.max_new_tokens),
        # A number of samples that cannot be is refused by the configuration itself.
        prompts_at_once=_given(settings.prompts_at_once, max(1, ROWS // max(settings.samples, 1))),
        embedders=_named(settings.embedder),
        embedder_dtype=settings.embedder_dtype and choose_dtype(settings.embedder_dtype),
        scorers=_named(settings.scorer),
        score_samples=settings.score_samples,
        diagnostics=settings.diagnostics,
        verifiable=task.grader is not None,
        private=task.private,
        plain_text=task.plain_text,
    )
    return Prepared(
        settings=settings,
        task=task,
        items=items,
        config=config,
        chat_template=chat_template,
        paper=paper,
    )


def paper_of(
    settings: Settings, task: Task, *, partly: bool = False
) -> dict[str, dict[str, float]]:
    """Return the numbers of the paper for what a run will measure; see `read_paper`."""
    embedders, scorers = _named(settings.embedder), _named(settings.scorer)
    measures = measures_of(settings.samples, embedders, scorers, task.grader is not None)
    arms = [parse_arm(text).name for text in settings.arm]
    return read_paper(settings.paper, arms, measures, partly=partly)


def _named(names: Sequence[str]) -> list[str]:
    return [name for name in names if name != NONE]


def _given(value: int | None, usual: int) -> int:
    return usual if value is None else value


def environment() -> dict[str, Any]:
    """Return what results may depend on beside the configuration."""
    names = ("esamp", "torch", "transformers", "vllm", "sentence-transformers", "math-verify")
    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {"versions": versions, "machine": machine()}
