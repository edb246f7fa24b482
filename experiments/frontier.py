"""Diversity against perplexity for every distiller and β, beside the vanilla temperature curve.

    python experiments/frontier.py generate --out runs/frontier
    python experiments/frontier.py measure --out runs/frontier [--embedder E ...] [--scorer S ...]
    python experiments/frontier.py report --out runs/frontier

Each arm and seed is one file, written whole, so that a killed run goes on where it was. Eight
prompts, 16 samples, 96 tokens, no truncation. `--scorer` takes a Hub id, a folder or a .gguf file.
"""

import argparse
import hashlib
import json
import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from esamp import ESamp, MeanDistiller, MLPDistiller, RecursiveDistiller, Vanilla
from esamp.backends.transformers.generator import TransformersGenerator
from esamp.baselines import GaussianNoise
from esamp.evals.embedding import load_embedder
from esamp.evals.metrics import distinct_n, mean_similarity, vendi
from esamp.generation import Request, Sampling
from esamp.method import Method

PROMPTS = [
    "Write a short story about a lighthouse.",
    "Write the opening of a novel that begins in a train station.",
    "Tell a story in which two strangers share an umbrella.",
    "Describe a city that exists only at night.",
    "Write a short story about a letter that arrives too late.",
    "Invent a folk tale that explains why the sea is salty.",
    "Write a scene in which a robot learns to cook.",
    "Write a monologue of somebody who has found a lost dog.",
]
SAMPLES, TOKENS = 16, 96
DISTILLERS = {
    "recursive": RecursiveDistiller(),
    "mlp": MLPDistiller(),
    "mean": MeanDistiller(),
}


def arms() -> dict[str, tuple[Method, float]]:
    """Return name -> (method, temperature)."""
    table: dict[str, tuple[Method, float]] = {
        f"vanilla T {temperature}": (Vanilla(), temperature) for temperature in (1.0, 0.9, 0.8, 0.7)
    }
    for beta in (0.25, 0.5, 1.0):
        for name, distiller in DISTILLERS.items():
            table[f"{name} β {beta}"] = (ESamp(beta=beta, distiller=distiller), 1.0)
    for name in ("recursive", "mean"):
        alone = ESamp(beta=1.0, distiller=DISTILLERS[name], scope="sample")
        table[f"{name} β 1.0, each sample its own group"] = (alone, 1.0)
    for beta in (0.5, 1.0):
        noise = GaussianNoise(esamp=ESamp(beta=beta))
        table[f"noise of the residual's length β {beta}"] = (noise, 1.0)
    return table


def path_of(out: Path, arm: str, seed: int) -> Path:
    """Return the file of one arm and seed."""
    return out / f"{hashlib.sha1(arm.encode()).hexdigest()[:10]}-{seed}.json"


def write(path: Path, record: dict[str, Any]) -> None:
    """Write a file whole or not at all."""
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(record))
    draft.replace(path)


def generate(out: Path, seeds: Sequence[int]) -> None:
    """Decode every arm and seed that is not on disk yet."""
    out.mkdir(parents=True, exist_ok=True)
    generator = TransformersGenerator.load()
    for seed in seeds:
        for arm, (method, temperature) in arms().items():
            path = path_of(out, arm, seed)
            if path.exists():
                continue
            request = Request(
                prompts=PROMPTS,
                samples=SAMPLES,
                sampling=Sampling(temperature=temperature, max_new_tokens=TOKENS),
                seed=seed,
            )
            generation = generator.generate(request, method)
            groups = [
                [{"text": each.text, "token_ids": list(each.token_ids)} for each in group]
                for group in generation.completions
            ]
            errors = generation.stats.distiller_error
            record = {"arm": arm, "seed": seed, "groups": groups, "distiller_error": list(errors)}
            write(path, record)
            print(f"{arm}, seed {seed}: {generation.stats.seconds:.0f} s", flush=True)


def measure(
    out: Path, seeds: Sequence[int], embedders: list[str], scorers: list[str], every: int
) -> None:
    """Add to each file what is missing of Vendi, similarity, distinct trigrams and perplexity."""
    # One model in memory at a time.
    for name in ["MiniLM", *embedders]:
        embed = load_embedder(None if name == "MiniLM" else name)
        for path, record in records(out, seeds):
            if name in record.setdefault("vendi", {}):
                continue
            vectors = [embed([each["text"] or " " for each in group]) for group in record["groups"]]
            record["vendi"][name] = [vendi(each) for each in vectors]
            record.setdefault("similarity", {})[name] = [mean_similarity(each) for each in vectors]
            record["distinct"] = [
                statistics.fmean(distinct_n([each["token_ids"]], 3) or 1.0 for each in group)
                for group in record["groups"]
            ]
            write(path, record)
    for name in ["own", *scorers]:
        score: Callable[[str, list[str]], tuple[float, int]] | None = None
        for path, record in records(out, seeds):
            if name in record.setdefault("nll", {}):
                continue
            score = score or load_scorer(name)
            record["nll"][name] = [
                score(prompt, [each["text"] for each in group[::every]])
                for prompt, group in zip(PROMPTS, record["groups"], strict=True)
            ]
            write(path, record)
            print(f"{name}: {record['arm']}, seed {record['seed']}", flush=True)


def records(out: Path, seeds: Sequence[int]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the files on disk, seed by seed."""
    for seed in seeds:
        for arm in arms():
            path = path_of(out, arm, seed)
            if path.exists():
                yield path, json.loads(path.read_text())


def load_scorer(name: str) -> Callable[[str, list[str]], tuple[float, int]]:
    """Return a function from prompt and texts to their total negative log-likelihood and tokens.

    Conditional on the prompt: through the chat template for the model itself ("own"), as plain text
    before the continuation for outside scorers, which see the text and not the token ids.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    if name == "own":
        generator = TransformersGenerator.load()
        model, tokenizer = generator.model, generator.tokenizer
    elif name.endswith(".gguf"):
        folder, file = str(Path(name).parent), Path(name).name
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=file,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
    else:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.bfloat16)

    @torch.no_grad()
    def score(prompt: str, texts: list[str]) -> tuple[float, int]:
        head = prompt + "\n\n"
        if name == "own":
            chat = [{"role": "user", "content": prompt}]
            head = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        start = tokenizer(head, add_special_tokens=False)["input_ids"]
        total, count = 0.0, 0
        for text in texts:
            tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
            if not tokens:
                continue
            ids = torch.tensor([start + tokens])
            logits = model(input_ids=ids, logits_to_keep=len(tokens) + 1).logits[0, :-1].float()
            logprobs = logits.log_softmax(-1).gather(-1, torch.tensor(tokens)[:, None])
            total -= float(logprobs.sum())
            count += len(tokens)
        return total, count

    return score


def report(out: Path, seeds: Sequence[int]) -> str:
    """Return the table: means over prompts and seeds, and lift over vanilla with its interval."""
    found: dict[str, list[dict[str, Any]]] = {}
    for _, record in records(out, seeds):
        found.setdefault(record["arm"], []).append(record)
    some = next(iter(found.values()))[0]
    embedders, scorers = list(some["vendi"]), list(some["nll"])
    outside = scorers[-1]
    lines = [
        f"Seeds {sorted({each['seed'] for runs in found.values() for each in runs})}; "
        f"lift at equal perplexity under {Path(outside).stem}, "
        "95 % interval by bootstrap over prompts.",
        "",
        "| arm | "
        + " | ".join(f"Vendi {Path(each).name}" for each in embedders)
        + " | "
        + " | ".join(f"perplexity {Path(each).stem}" for each in scorers)
        + " | distinct trigrams | tokens | "
        + " | ".join(f"lift {Path(each).name}" for each in embedders)
        + " | distiller error, last 16 steps |",
        "|" + "---|" * (4 + 2 * len(embedders) + len(scorers)),
    ]
    prompts = range(len(PROMPTS))
    for arm, runs in found.items():
        tokens = statistics.fmean(
            sum(len(each["token_ids"]) for group in run["groups"] for each in group) for run in runs
        )
        lifts = [interval(found, arm, name, outside) for name in embedders]
        errors = [error for run in runs for error in run["distiller_error"][-16:] if error]
        cells = [
            arm,
            *(f"{mean_vendi(runs, name, prompts):.2f}" for name in embedders),
            *(f"{math.exp(log_perplexity(runs, name, prompts)):.1f}" for name in scorers),
            f"{statistics.fmean(value for run in runs for value in run['distinct']):.3f}",
            f"{tokens:.0f}",
            *lifts,
            f"{statistics.fmean(errors):.2f}" if errors else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def mean_vendi(runs: list[dict[str, Any]], name: str, prompts: Sequence[int]) -> float:
    """Return the mean Vendi score over runs and the given prompts."""
    return statistics.fmean(run["vendi"][name][each] for run in runs for each in prompts)


def log_perplexity(runs: list[dict[str, Any]], name: str, prompts: Sequence[int]) -> float:
    """Return total negative log-likelihood over total tokens, over runs and the given prompts."""
    pairs = [run["nll"][name][each] for run in runs for each in prompts]
    return sum(nll for nll, _ in pairs) / sum(count for _, count in pairs)


def lift(
    found: dict[str, list[dict[str, Any]]],
    arm: str,
    embedder: str,
    scorer: str,
    prompts: Sequence[int],
) -> float | None:
    """Return Vendi over vanilla's at the same log-perplexity; None outside vanilla's range."""
    curve = sorted(
        (log_perplexity(runs, scorer, prompts), mean_vendi(runs, embedder, prompts))
        for name, runs in found.items()
        if name.startswith("vanilla")
    )
    here = log_perplexity(found[arm], scorer, prompts)
    for (low, below), (high, above) in pairwise(curve):
        if low <= here <= high:
            expected = below + (above - below) * (here - low) / (high - low)
            return mean_vendi(found[arm], embedder, prompts) / expected
    return None


def interval(found: dict[str, list[dict[str, Any]]], arm: str, embedder: str, scorer: str) -> str:
    """Return lift with its 95 % interval, both arms and prompts resampled together."""
    if arm.startswith("vanilla"):
        return ""
    everything = range(len(PROMPTS))
    middle = lift(found, arm, embedder, scorer, everything)
    draws = random.Random(0)
    sampled = [
        lift(found, arm, embedder, scorer, draws.choices(everything, k=len(PROMPTS)))
        for _ in range(2000)
    ]
    inside = sorted(value for value in sampled if value is not None)
    if middle is None or len(inside) < 0.9 * len(sampled):
        return "outside vanilla's range" if middle is None else f"{middle:.2f} (no interval)"
    low, high = inside[int(0.025 * len(inside))], inside[int(0.975 * len(inside))]
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=["generate", "measure", "report"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--embedder", action="append", default=[])
    parser.add_argument("--scorer", action="append", default=[])
    parser.add_argument("--score-every", type=int, default=1, help="score each such sample only")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    if options.stage == "generate":
        generate(options.out, seeds)
    elif options.stage == "measure":
        measure(options.out, seeds, options.embedder, options.scorer, options.score_every)
    else:
        print(report(options.out, seeds))


if __name__ == "__main__":
    main()
