"""A small run with a scripted generator and measures that need no model."""

from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch

from esamp.backends.scripted import ScriptedGenerator
from esamp.evals.config import RunConfig, hash_items
from esamp.evals.folder import RunFolder
from esamp.evals.run import Measurers, Tools, run
from esamp.evals.scoring import Scored
from esamp.evals.task import Grade, Item

ITEMS = [
    Item(id=name, prompt=f"Say {name}.", reference={"answer": name}) for name in ("a", "b", "c")
]
TEXTS = {
    item.prompt: [f"{item.id} yes {number}" for number in range(2)]
    + [f"no {number} ünïcode 🙂" for number in range(2)]
    for item in ITEMS
}


def config(**changes):
    settings = {
        "task": "toy",
        "items": [item.id for item in ITEMS],
        "data": hash_items(ITEMS),
        "model": "script",
        "backend": "transformers",
        "dtype": "float32",
        "chat_template": "none",
        "chat_template_kwargs": {},
        "arms": ["vanilla", "vanilla(temperature=0.8)", "esamp(beta=0.5)"],
        "samples": 4,
        "seeds": [0, 1],
        "max_new_tokens": 8,
        "prompts_at_once": 2,
        "embedders": ["letters"],
        "scorers": ["flat"],
        "verifiable": True,
    }
    return RunConfig(**settings | changes)


def letters(texts):
    """Embed a text by how often each letter is in it."""
    return torch.tensor(
        [[text.count(chr(code)) + 0.1 for code in range(97, 123)] for text in texts]
    )


class Flat:
    """Every word costs one nat."""

    def score(self, prompt, texts, plain_text):
        return [Scored(float(len(text.split())), len(text.split())) for text in texts]


class AtOnce:
    """Grades in this process: right is what says yes."""

    def submit(self, item, texts):
        done = Future()
        answers = [item.reference["answer"] if "yes" in text else None for text in texts]
        done.set_result([Grade(correct=each is not None, answer=each) for each in answers])
        return done


@dataclass
class Counting:
    """Counts calls, and stops at one of them as a kill would."""

    within: ScriptedGenerator
    calls: int = 0
    stop_at: int | None = None

    def generate(self, request, method, progress=None):
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        self.calls += 1
        return self.within.generate(request, method, progress)

    def pieces(self, token_ids):
        return self.within.pieces(token_ids)


@contextmanager
def no_progress(title):
    yield lambda share: None


def tools(generator=None, grading=True):
    generator = generator or Counting(ScriptedGenerator(texts=TEXTS))
    return Tools(
        generator=lambda: generator,
        grading=(lambda: nullcontext(AtOnce())) if grading else None,
        measurers=lambda: Measurers(embedders={"letters": letters}, scorers={"flat": Flat()}),
        progress=no_progress,
    )


def run_in(path, settings=None, with_tools=None):
    settings = settings or config()
    with RunFolder.open(path, settings) as folder:
        return run(settings, ITEMS, with_tools or tools(), folder)


def files(path):
    """Return the contents of all files that do not depend on time."""
    return {
        each.name: each.read_bytes()
        for each in sorted(path.iterdir())
        if not each.name.startswith("timings")
    }
