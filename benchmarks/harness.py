"""Measure what the evaluation harness costs beside generation, and the memory of a large run.

    python benchmarks/harness.py [--prompts 1000] [--samples 64] [--tokens 200] [--out DIR]

Does a run of `esamp eval` on texts that are replayed: nothing decodes, embeds or scores, so what is
left is the harness. Tokens are the demo model's own, since spelling them out is a cost per token.
Prints one JSON object. Memory is what the run adds to a process that has torch and a tokenizer.
"""

import argparse
import json
import pydoc_data.topics
import random
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoTokenizer

from esamp.backends.scripted import ScriptedGenerator
from esamp.backends.text import pieces
from esamp.backends.transformers.load import DEMO_MODEL, demo_gguf
from esamp.evals.config import ROWS, RunConfig, hash_items
from esamp.evals.folder import RunFolder
from esamp.evals.graders.number import NumberGrader
from esamp.evals.graders.pool import GradingPool
from esamp.evals.run import Measurers, Tools, run
from esamp.evals.scoring import Scored
from esamp.evals.task import Grade, Item
from esamp.generation import Completion, Generation, Progress, Request
from esamp.method import Method, Vanilla
from esamp.report.build import build_report

ARMS = ("vanilla", "esamp")
WIDTH = 384
"""Of embeddings: MiniLM's."""
TOKENS_PER_WORD = 1.6
"""Of these words, about."""
SPEEDS = {"SmolLM2-135M on two cores": 780, "Qwen3-8B on an RTX 4090, the paper's 32 × 16": 4558}
"""Tokens a second that the harness is set against."""
SHARE = 0.03
"""Of the time of generation that the harness may take."""
WATCH_SECONDS = 0.1


class Texts(Mapping[str, Sequence[str]]):
    """From prompt to texts: words in the frequencies of English, made when they are asked for."""

    def __init__(self, prompts: Sequence[str], samples: int, tokens: int) -> None:
        self._prompts = prompts
        self._samples = samples
        self._words = " ".join(pydoc_data.topics.topics.values()).split()
        self._mean = tokens / TOKENS_PER_WORD

    def __getitem__(self, prompt: str) -> list[str]:
        """Return texts of half to one and a half times the mean length, ending in a number."""
        chance = random.Random(prompt)
        lengths = [int(self._mean * chance.uniform(0.5, 1.5)) for _ in range(self._samples)]
        return [
            f"{' '.join(chance.choices(self._words, k=length))} {chance.randrange(4)}"
            for length in lengths
        ]

    def __iter__(self) -> Iterator[str]:
        return iter(self._prompts)

    def __len__(self) -> int:
        return len(self._prompts)

    def values(self) -> Any:
        """Return all words, which is what a script's vocabulary is made from."""
        return [[*self._words, *map(str, range(4))]]


@dataclass(kw_only=True)
class Replay:
    """A generator that gives a script's texts as if a steered model had drawn them."""

    script: ScriptedGenerator
    tokenizer: Any
    seconds: float = 0.0
    """Spent here, which is generation's time and not the harness's."""
    spelling: float = 0.0
    """Spent in `pieces`, which is the harness's."""
    tokens: int = 0
    noise: list[float] = field(default_factory=lambda: torch.rand(4096).tolist())

    def generate(
        self, request: Request, method: Method, progress: Progress | None = None
    ) -> Generation:
        """Return the script's texts in tokens of the tokenizer."""
        start = time.perf_counter()
        replayed = self.script.generate(request, method, progress)
        steered = not isinstance(method, Vanilla)
        groups = [[self._drawn(each, steered) for each in group] for group in replayed.completions]
        tokens = sum(len(each.token_ids) for group in groups for each in group)
        self.tokens += tokens
        self.seconds += time.perf_counter() - start
        return Generation(completions=groups, stats=replace(replayed.stats, tokens=tokens))

    def _drawn(self, replayed: Completion, steered: bool) -> Completion:
        ids = self.tokenizer(replayed.text, add_special_tokens=False)["input_ids"]
        noise = (self.noise * (1 + len(ids) // len(self.noise)))[: len(ids)]
        return replace(
            replayed,
            token_ids=ids,
            logprobs=[-each for each in noise],
            novelty=[None, *noise[1:]] if steered else None,
        )

    def pieces(self, token_ids: Sequence[int]) -> list[str]:
        """Return the text that each token adds."""
        start = time.perf_counter()
        found = pieces(self.tokenizer, token_ids)
        self.spelling += time.perf_counter() - start
        return found


@dataclass
class Awaited:
    """A future whose waiting is timed: it is the graders', and generation's only if it must."""

    within: "Future[list[Grade]]"
    clock: "Clock"

    def done(self) -> bool:
        """Whether the grades are there."""
        return self.within.done()

    def result(self) -> list[Grade]:
        """Wait for the grades."""
        start = time.perf_counter()
        grades = self.within.result()
        self.clock.waiting += time.perf_counter() - start
        return grades


@dataclass
class Clock:
    """Seconds of each stage, and of waiting for grades."""

    stages: dict[str, float] = field(default_factory=dict)
    waiting: float = 0.0

    @contextmanager
    def stage(self, title: str) -> Iterator[Progress]:
        """Time a stage without its waiting; takes the place of a progress bar."""
        start, waited = time.perf_counter(), self.waiting
        yield lambda share: None
        self.stages[title] = time.perf_counter() - start - (self.waiting - waited)

    @contextmanager
    def grading(self) -> Iterator["Clock"]:
        """Open a pool of graders."""
        with GradingPool(NumberGrader()) as self.pool:
            yield self

    def submit(self, item: Item, texts: Sequence[str]) -> Any:
        """Hand samples to the pool."""
        return Awaited(self.pool.submit(item, texts), self)


class Watch:
    """The most memory that this process, and those that it started, had at a time."""

    def __init__(self) -> None:
        self.mine, self.others = 0, 0
        self._process = psutil.Process()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        self.before = self._process.memory_info().rss
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(WATCH_SECONDS):
            self.mine = max(self.mine, self._process.memory_info().rss)
            others = 0
            for child in self._process.children(recursive=True):
                try:
                    others += child.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.others = max(self.others, others)

    def megabytes(self) -> dict[str, int]:
        """Return what was there before, and the most that came on top of it."""
        added = {"before": self.before, "run": self.mine - self.before, "graders": self.others}
        return {name: round(value / 1e6) for name, value in added.items()}


def embed(texts: Sequence[str]) -> torch.Tensor:
    """Return a vector of each text that costs next to nothing."""
    rows = torch.tensor([zlib.crc32(text.encode()) % len(TABLE) for text in texts])
    return TABLE[rows]


TABLE = torch.randn(8192, WIDTH, generator=torch.Generator().manual_seed(0))


class Even:
    """A scorer to which every word costs two nats."""

    def score(self, prompt: str, texts: Sequence[str], plain_text: bool) -> list[Scored]:
        """Return words for tokens."""
        counts = [text.count(" ") + 1 for text in texts]
        return [Scored(2.0 * count, count) for count in counts]


def load_tokenizer() -> Any:
    """Return the demo model's tokenizer, without the model."""
    file = demo_gguf()
    if file is None:
        return AutoTokenizer.from_pretrained(DEMO_MODEL)
    return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def measure(options: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Do the run and its report, and return what they took."""
    items = [
        Item(id=f"item-{number}", prompt=f"Prompt {number}.", reference={"answer": "1"})
        for number in range(options.prompts)
    ]
    texts = Texts([item.prompt for item in items], options.samples, options.tokens)
    generator = Replay(script=ScriptedGenerator(texts=texts), tokenizer=load_tokenizer())
    config = RunConfig(
        task="replayed",
        items=[item.id for item in items],
        data=hash_items(items),
        model="none",
        backend="transformers",
        dtype="float32",
        chat_template="none",
        chat_template_kwargs={},
        arms=ARMS,
        samples=options.samples,
        seeds=[0],
        max_new_tokens=4 * options.tokens,
        prompts_at_once=max(1, ROWS // options.samples),
        embedders=["table"],
        scorers=["even"],
        verifiable=True,
    )
    clock = Clock()
    tools = Tools(
        generator=lambda: generator,
        grading=clock.grading,
        measurers=lambda: Measurers(embedders={"table": embed}, scorers={"even": Even()}),
        progress=clock.stage,
    )
    generator.generate(Request(prompts=[items[0].prompt], samples=1), Vanilla())
    generator.seconds, generator.tokens = 0.0, 0
    with RunFolder.open(path, config) as folder, Watch() as watch:
        folder.write_items(items, private=False)
        start = time.perf_counter()
        run(config, items, tools, folder)
        seconds = time.perf_counter() - start
        page = build_report([path])
        reporting = time.perf_counter() - start - seconds
    tokens = generator.tokens
    generating = clock.stages["generating"] - generator.seconds
    rest = seconds - sum(clock.stages.values()) - clock.waiting
    costs = {
        "generate": generating,
        "of it, the text of each token": generator.spelling,
        "grade, beside it": clock.waiting,
        "measure": clock.stages["measuring"],
        "sum up, and look at what is there": rest,
        "report": reporting,
    }
    cost = generating / tokens
    return {
        "prompts": options.prompts,
        "samples": options.samples,
        "arms": list(ARMS),
        "tokens": tokens,
        "tokens_per_sample": round(tokens / (options.prompts * options.samples * len(ARMS)), 1),
        "megabytes": watch.megabytes(),
        "megabytes_on_disk": round(sum(each.stat().st_size for each in path.iterdir()) / 1e6),
        "megabytes_of_page": round(len(page.encode()) / 1e6, 2),
        "microseconds_per_token": {
            name: round(1e6 * value / tokens, 3) for name, value in costs.items()
        },
        "share_of_generation": {
            f"at {speed} tokens/s ({where})": round(cost * speed, 4)
            for where, speed in SPEEDS.items()
        },
        f"tokens_per_second_where_it_takes_{SHARE:.0%}": round(SHARE / cost),
    }


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=200, help="of a sample, on average")
    parser.add_argument("--out", type=Path, help="keep the run here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, options.out or Path(folder) / "run")
    print(json.dumps(found, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
