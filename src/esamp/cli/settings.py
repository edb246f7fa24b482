"""From the words of the command line to methods."""

import dataclasses
from typing import Any, Literal

from esamp.explorer import DISTILLERS, DistillerName, ESamp
from esamp.method import Method, Truncation

MethodName = Literal["esamp", "vanilla"]
BackendName = Literal["transformers", "vllm"]


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
