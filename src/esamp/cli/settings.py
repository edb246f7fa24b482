"""From the words of the command line to methods."""

import dataclasses
from typing import Annotated, Any, Literal

import typer

from esamp.distiller import Distiller
from esamp.errors import UsageError
from esamp.explorer import DISTILLERS, DistillerName, ESamp
from esamp.method import Method, Truncation
from esamp.recursive import RecursiveDistiller

MethodName = Literal["esamp", "vanilla"]
BackendName = Literal["transformers", "vllm"]
Features = Annotated[
    int | None,
    typer.Option(
        help=f"Features of the recursive distiller; left out: {RecursiveDistiller.features}."
    ),
]
LearnTokens = Annotated[
    int | None,
    typer.Option(help="Tokens of each sample that the distiller learns from; left out: all."),
]


def build_esamp(
    beta: float,
    distiller: DistillerName,
    features: int | None,
    learn_tokens: int | None,
    truncation: Truncation = "reference",
) -> ESamp:
    """Return ESamp as the options describe it; no features are the distiller's own number.

    Raises:
        UsageError: β is not a finite number of 0 or above, features are negative or asked of a
            distiller that has none, or there are no tokens to learn from.
    """
    built: Distiller = DISTILLERS[distiller]()
    if features is not None:
        if not isinstance(built, RecursiveDistiller):
            raise UsageError(
                f"features is {features}, and the distiller {distiller} has none: leave --features "
                "out, or give --distiller recursive"
            )
        built = dataclasses.replace(built, features=features)
    return ESamp(beta=beta, distiller=built, truncation=truncation, learn_tokens=learn_tokens)


def describe(method: Method) -> dict[str, Any]:
    """Return a method's settings as JSON data."""
    assert dataclasses.is_dataclass(method), "every method is frozen settings"
    return {"name": method.name} | dataclasses.asdict(method)
