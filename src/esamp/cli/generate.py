"""`esamp generate`: K samples of one prompt, shown or as JSON."""

import dataclasses
from typing import Annotated, Any

import typer

from esamp.backends.text import ChatTemplate
from esamp.cli.backend import load_generator
from esamp.cli.console import only_data_on_stdout, progress_bar, talk, write_json
from esamp.cli.settings import (
    BackendName,
    Features,
    LearnTokens,
    MethodName,
    build_esamp,
    describe,
)
from esamp.errors import UsageError
from esamp.explorer import DistillerName
from esamp.generation import Generation, Request, Sampling
from esamp.method import Method, Truncation, Vanilla


def generate(  # noqa: PLR0913  (one parameter per option: typer reads them)
    prompt: Annotated[str, typer.Argument(help="What to sample K completions of.")],
    samples: Annotated[int, typer.Option(help="How many samples.")] = 8,
    method: Annotated[MethodName, typer.Option(help="How to decode.")] = "esamp",
    beta: Annotated[float, typer.Option(help="Strength of ESamp; 0 is plain sampling.")] = 0.25,
    distiller: Annotated[DistillerName, typer.Option(help="What predicts deep states.")] = (
        "recursive"
    ),
    features: Features = None,
    learn_tokens: LearnTokens = None,
    truncation: Annotated[
        Truncation, typer.Option(help="Logits that top-k, top-p and min-p judge.")
    ] = "reference",
    backend: Annotated[BackendName, typer.Option(help="Engine.")] = "transformers",
    temperature: Annotated[float, typer.Option(help="0 is greedy, and never steered.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="1 is off.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="0 is off.")] = 0,
    min_p: Annotated[float, typer.Option(help="0 is off.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(help="Longest sample, in tokens.")] = 64,
    seed: Annotated[int, typer.Option(help="Same seed, same samples.")] = 0,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16 or float32.")] = "auto",
    model: Annotated[
        str | None, typer.Option(help="Hub id, folder or .gguf; left out: SmolLM2-135M-Instruct.")
    ] = None,
    chat_template: Annotated[
        ChatTemplate, typer.Option(help="Use the model's chat template if it has one.")
    ] = "auto",
    diagnostics: Annotated[
        bool, typer.Option("--diagnostics", help="Also give what needs the reference logits.")
    ] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Put plain sampling beside it, and the diversity.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Sample K completions of PROMPT that differ in meaning."""
    # Built in any case, so that a bad value is told of whatever the method.
    esamp = build_esamp(beta, distiller, features, learn_tokens, truncation)
    chosen: Method = Vanilla() if method == "vanilla" else esamp
    if compare and method == "vanilla":
        raise UsageError("--compare sets a method beside vanilla: leave it out with vanilla")
    if compare and samples < 2:
        raise UsageError(f"samples is {samples}: --compare needs 2 or more to measure diversity")
    request = Request(
        prompts=[prompt],
        samples=samples,
        sampling=Sampling(
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            max_new_tokens=max_new_tokens,
        ),
        seed=seed,
        diagnostics=diagnostics,
    )
    if diagnostics and backend == "vllm":
        raise UsageError("--diagnostics needs --backend transformers: leave one of them out")
    generator = load_generator(backend, model, dtype, chat_template)
    runs: dict[str, Generation] = {}
    for arm in [chosen, Vanilla()] if compare else [chosen]:
        with progress_bar(arm.name) as progress, only_data_on_stdout():
            runs[arm.name] = generator.generate(request, arm, progress)
    diversity = measure(runs) if compare else None
    if not json:
        from esamp.cli.view import show

        show(runs, generator, diversity)
        if compare:
            talk.print(
                "hint: ESamp also sharpens, so equal temperature is not equal quality; "
                "compare over many prompts and temperatures"
            )
        return
    result: dict[str, Any] = {"prompt": prompt, "method": describe(chosen)}
    result |= to_json(runs[chosen.name])
    if compare:
        result |= {"vanilla": to_json(runs["vanilla"]), "diversity": diversity}
    write_json(result)


def measure(runs: dict[str, Generation]) -> dict[str, dict[str, float]]:
    """Return Vendi score and mean similarity of each run's samples."""
    from esamp.evals.embedding import load_embedder
    from esamp.evals.metrics import mean_similarity, vendi

    embed = load_embedder()
    result = {}
    for name, run in runs.items():
        # An empty sample is a sample too; embedders want some text.
        vectors = embed([sample.text or " " for sample in run.completions[0]])
        result[name] = {"vendi": vendi(vectors), "similarity": mean_similarity(vectors)}
    return result


def to_json(run: Generation) -> dict[str, Any]:
    """Return samples and stats of a one-prompt run as JSON data."""
    stats = dataclasses.asdict(run.stats) | {"tokens_per_second": run.stats.tokens_per_second}
    return {"samples": [dataclasses.asdict(each) for each in run.completions[0]], "stats": stats}
