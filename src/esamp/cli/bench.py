"""`esamp bench decode`: what ESamp costs, against our own plain loop and Transformers' own."""

import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from esamp.cli.console import machine, model_loading, progress_bar, write_json
from esamp.cli.settings import BackendName, DistillerName, build_esamp
from esamp.cli.timing import Timed
from esamp.errors import UsageError
from esamp.explorer import ESamp
from esamp.method import Method, Vanilla

bench_app = typer.Typer(help="Measure speed on this machine.", no_args_is_help=True)

TOPICS = (
    "a lighthouse", "a train", "an umbrella", "a market", "a letter", "a robot", "a dog", "the sea",
)  # fmt: skip


@bench_app.callback()
def _group() -> None:
    """Measure speed on this machine."""


@bench_app.command()
def decode(  # noqa: PLR0913  (one parameter per option: typer reads them)
    prompts: Annotated[int, typer.Option(help="Different prompts in the batch.")] = 8,
    samples: Annotated[int, typer.Option(help="Samples of each.")] = 16,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of each sample.")] = 64,
    rounds: Annotated[int, typer.Option(help="Rounds; in each, every arm runs once.")] = 5,
    beta: Annotated[float, typer.Option(help="Strength of ESamp.")] = 0.25,
    distiller: Annotated[DistillerName, typer.Option(help="Distiller of ESamp.")] = "recursive",
    backend: Annotated[BackendName, typer.Option(help="Engine.")] = "transformers",
    model: Annotated[
        str | None, typer.Option(help="Hub id or local path; left out: SmolLM2-135M-Instruct.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Time plain and ESamp decoding alternately within one process."""
    for name, value, least in (
        ("prompts", prompts, 1),
        ("samples", samples, 1),
        ("max-new-tokens", max_new_tokens, 2),  # the first token is not steered
        ("rounds", rounds, 1),
    ):
        if value < least:
            raise UsageError(f"{name} is {value}: give {least} or more")
    assert backend == "transformers", "the only backend so far"
    chosen = build_esamp(beta, distiller)
    arms = transformers_arms(model, dtype, prompts, samples, max_new_tokens)
    with progress_bar("decoding") as progress:
        result = compare(arms, chosen, rounds, prompts * samples * max_new_tokens, progress)
    result["machine"] = machine()
    if json:
        write_json(result)
    else:
        Console().print(result)


Arm = Callable[[Method | None], None]
"""Decodes the whole batch once with a method; None is the engine's own sampling."""


def transformers_arms(
    model: str | None, dtype: str, prompts: int, samples: int, max_new_tokens: int
) -> tuple[Arm, int]:
    """Return a function that runs one arm, and the model's hidden size."""
    from esamp.backends.transformers import generate
    from esamp.backends.transformers.generator import TransformersGenerator

    with model_loading():
        generator = TransformersGenerator.load(model, dtype=dtype)
    loaded, tokenizer = generator.model, generator.tokenizer
    texts = [f"Write a story about {TOPICS[n % len(TOPICS)]}, number {n}." for n in range(prompts)]
    inputs = tokenizer(texts, return_tensors="pt", padding=True).to(loaded.device)
    # No end token: every arm decodes the same number of tokens, of the same number of rows.
    loaded.generation_config.eos_token_id = None
    shared: dict[str, Any] = {
        "do_sample": True,
        "top_k": 0,
        "num_return_sequences": samples,
        "max_new_tokens": max_new_tokens,
        "pad_token_id": tokenizer.pad_token_id,
    }

    def run(method: Method | None) -> None:
        if method is None:
            loaded.generate(**inputs, **shared)
        else:
            generate(loaded, **inputs, **shared, method=method, seed=0)

    return run, loaded.config.get_text_config(decoder=True).hidden_size


def compare(
    arms: tuple[Arm, int],
    method: ESamp,
    rounds: int,
    tokens: int,
    progress: Callable[[float], None],
) -> dict[str, Any]:
    """Run every arm once a round, after a round to warm up, and return the figures."""
    run, hidden = arms
    timed = Timed(method=method)
    order: dict[Literal["stock", "vanilla", "esamp"], Method | None] = {
        "stock": None,
        "vanilla": Vanilla(),
        "esamp": method,
    }
    seconds: dict[str, list[float]] = {name: [] for name in order}
    for turn in range(rounds + 1):
        for place, (name, arm) in enumerate(order.items()):
            start = time.perf_counter()
            run(arm)
            if turn > 0:
                seconds[name].append(time.perf_counter() - start)
            progress((turn * len(order) + place + 1) / ((rounds + 1) * len(order) + 1))
    # Apart, since marks of time cost time on a GPU.
    run(timed)
    speeds = {name: tokens / statistics.median(times) for name, times in seconds.items()}
    ratios = [
        plain / steered for plain, steered in zip(seconds["vanilla"], seconds["esamp"], strict=True)
    ]
    return {
        "stock_tokens_per_second": speeds["stock"],
        "vanilla_tokens_per_second": speeds["vanilla"],
        "esamp_tokens_per_second": speeds["esamp"],
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "overhead_share": timed.share,
        "state_bytes_per_group": method.distiller.state_bytes(hidden),
    }
