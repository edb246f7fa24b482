"""From the words of the command line to methods."""

import dataclasses
from typing import Any, Literal

from esamp.distiller import Distiller, MeanDistiller
from esamp.explorer import ESamp
from esamp.method import Method, Truncation
from esamp.mlp import MLPDistiller
from esamp.recursive import RecursiveDistiller

MethodName = Literal["esamp", "vanilla"]
DistillerName = Literal["recursive", "mlp", "mean"]
BackendName = Literal["transformers", "vllm"]

DISTILLERS: dict[DistillerName, type[Distiller]] = {
    "recursive": RecursiveDistiller,
    "mlp": MLPDistiller,
    "mean": MeanDistiller,
}


def build_esamp(
    beta: float, distiller: DistillerName, truncation: Truncation = "reference"
) -> ESamp:
    """Return ESamp as the options describe it.

    Raises:
        UsageError: β is not a finite number of 0 or above.
    """
    return ESamp(beta=beta, distiller=DISTILLERS[distiller](), truncation=truncation)


def describe(method: Method) -> dict[str, Any]:
    """Return a method's settings as JSON data."""
    assert dataclasses.is_dataclass(method), "every method is frozen settings"
    return {"name": method.name} | dataclasses.asdict(method)
