"""`esamp bench decode`: what ESamp costs, against plain decoding on the same engine."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console

from esamp.backends.precision import choose_dtype
from esamp.cli.console import (
    machine,
    model_loading,
    only_data_on_stdout,
    progress_bar,
    write_json,
)
from esamp.cli.settings import BackendName, Features, LearnTokens, build_esamp
from esamp.cli.timing import Timed
from esamp.errors import UsageError
from esamp.explorer import DistillerName, ESamp
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
    features: Features = None,
    learn_tokens: LearnTokens = None,
    backend: Annotated[BackendName, typer.Option(help="Engine.")] = "transformers",
    model: Annotated[
        str | None, typer.Option(help="Hub id, folder or .gguf; left out: SmolLM2-135M-Instruct.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16 or float32.")] = "auto",
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
    chosen, dtype = build_esamp(beta, distiller, features, learn_tokens), choose_dtype(dtype)
    shape = Shape(prompts=prompts, samples=samples, max_new_tokens=max_new_tokens)
    with only_data_on_stdout():
        if backend == "vllm":
            arms = vllm_arms(model, dtype, shape, chosen)
        else:
            arms = transformers_arms(model, dtype, shape)
        with progress_bar("decoding") as progress:
            result = compare(arms, chosen, rounds, shape.tokens, progress)
    result |= {"backend": backend, "dtype": dtype, "machine": machine()}
    if json:
        write_json(result)
    else:
        Console().print(result)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What every arm decodes."""

    prompts: int
    samples: int
    max_new_tokens: int

    @property
    def tokens(self) -> int:
        """Tokens of one run."""
        return self.prompts * self.samples * self.max_new_tokens

    @property
    def texts(self) -> list[str]:
        """Different prompts."""
        return [
            f"Write a story about {TOPICS[number % len(TOPICS)]}, number {number}."
            for number in range(self.prompts)
        ]


@dataclass(frozen=True, kw_only=True)
class Arms:
    """A backend, ready to be timed."""

    run: Callable[[Method | None], None]
    """Decodes the whole batch once with a method; None is the engine's own sampling."""
    share: Callable[[ESamp], float]
    """Decodes once more, and returns which share of the steps is the method's own."""
    baseline: Literal["stock", "vanilla"]
    """What ESamp is compared to: the engine without us, or our own loop without ESamp."""
    hidden: int


def transformers_arms(model: str | None, dtype: str, shape: Shape) -> Arms:
    """Return the arms on Transformers; its own sampling is slow, so the baseline is our loop."""
    from esamp.backends.transformers import generate
    from esamp.backends.transformers.generator import TransformersGenerator

    with model_loading():
        generator = TransformersGenerator.load(model, dtype=dtype)
    loaded, tokenizer = generator.model, generator.tokenizer
    inputs = tokenizer(shape.texts, return_tensors="pt", padding=True).to(loaded.device)
    # No end token: every arm decodes the same number of tokens, of the same number of rows.
    loaded.generation_config.eos_token_id = None
    shared: dict[str, Any] = {
        "do_sample": True,
        "top_k": 0,
        "num_return_sequences": shape.samples,
        "max_new_tokens": shape.max_new_tokens,
        "pad_token_id": tokenizer.pad_token_id,
    }

    def run(method: Method | None) -> None:
        if method is None:
            loaded.generate(**inputs, **shared)
        else:
            generate(loaded, **inputs, **shared, method=method, seed=0)

    def share(method: ESamp) -> float:
        timed = Timed(method=method)
        run(timed)
        return timed.share

    hidden = loaded.config.get_text_config(decoder=True).hidden_size
    return Arms(run=run, share=share, baseline="vanilla", hidden=hidden)


def vllm_arms(model: str | None, dtype: str, shape: Shape, esamp: ESamp) -> Arms:
    """Return the arms on vLLM: an engine that is inert, and one that is armed, taking turns."""
    # On few cores the engine must not compete with the process that feeds it.
    if not torch.cuda.is_available():
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    from esamp.backends.transformers.load import demo_model
    from esamp.backends.vllm.engine import configure, start_engine

    name = model or demo_model()
    room = {"gpu_memory_utilization": 0.42} if torch.cuda.is_available() else {}
    with model_loading():
        stock = start_engine(name, dtype, **room)
        armed = start_engine(name, dtype, additional_config={"esamp": {}}, **room)
    configure(armed, esamp)
    from vllm import SamplingParams

    def run(method: Method | None) -> None:
        extra = None
        if method is not None:
            extra = {"esamp_beta": method.beta if isinstance(method, ESamp) else 0.0}
        params = SamplingParams(
            n=shape.samples,
            max_tokens=shape.max_new_tokens,
            ignore_eos=True,
            extra_args=extra,
        )
        engine = stock if method is None else armed
        engine.generate(shape.texts, params, use_tqdm=False)

    def share(method: ESamp) -> float:
        configure(armed, method, timing=True)
        run(method)
        stats = armed.collective_rpc("esamp_stats")[0]
        return float(stats["own_seconds"] / stats["step_seconds"])

    hidden = armed.llm_engine.model_config.get_hidden_size()
    return Arms(run=run, share=share, baseline="stock", hidden=hidden)


def compare(
    arms: Arms,
    method: ESamp,
    rounds: int,
    tokens: int,
    progress: Callable[[float], None],
) -> dict[str, Any]:
    """Run every arm once a round, after a round to warm up, and return the figures."""
    order: dict[Literal["stock", "vanilla", "esamp"], Method | None] = {
        "stock": None,
        "vanilla": Vanilla(),
        "esamp": method,
    }
    seconds: dict[str, list[float]] = {name: [] for name in order}
    for turn in range(rounds + 1):
        for place, (name, arm) in enumerate(order.items()):
            start = time.perf_counter()
            arms.run(arm)
            if turn > 0:
                seconds[name].append(time.perf_counter() - start)
            progress((turn * len(order) + place + 1) / ((rounds + 1) * len(order) + 1))
    speeds = {name: tokens / statistics.median(times) for name, times in seconds.items()}
    ratios = [
        plain / steered
        for plain, steered in zip(seconds[arms.baseline], seconds["esamp"], strict=True)
    ]
    return {
        "stock_tokens_per_second": speeds["stock"],
        "vanilla_tokens_per_second": speeds["vanilla"],
        "esamp_tokens_per_second": speeds["esamp"],
        "baseline": arms.baseline,
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        # Apart from the rounds, since marks of time cost time on a GPU.
        "overhead_share": arms.share(method),
        "state_bytes_per_group": method.distiller.state_bytes(arms.hidden),
    }
