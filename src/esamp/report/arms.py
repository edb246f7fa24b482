"""Families of arms: which arms differ in one number only, and how the plots name and mark them."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from esamp.errors import UsageError
from esamp.evals.arms import MATCHED, parse_arm

NAME = re.compile(r"\s*([^()]+?)\s*(?:\((.*)\))?\s*", re.S)
ON_CURVE = re.compile(r"vanilla(\(temperature=[^,()]*\))?")
"""Names of the points of the vanilla temperature curve."""

PHRASES = {"beta": "strength β", "temperature": "temperature T"}
SYMBOLS = {"beta": "β", "temperature": "T", "lam": "λ", "alpha": "α", "kl_budget": "budget"}
FIRST = ("beta", "temperature")
"""Where an arm belongs to two sweeps of one size, the sweep that it is drawn in."""

SHORT = 16
"""Characters of a family's name that fit into a plot."""

COLOURS = 6
SHAPES = ("circle", "square", "triangle", "diamond", "wedge", "hexagon")

Settings = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Label:
    """How an arm is named and drawn."""

    arm: str
    family: str
    parameter: str | None
    """What differs within the family."""
    value: float | None
    """Its value here."""
    short: str
    """Name within the family, such as "β 0.25"; of an arm that is alone there, the family's."""
    vanilla: bool


@dataclass(frozen=True, kw_only=True)
class Mark:
    """How a family is drawn. No two families of a page's run share both, for a while."""

    colour: str
    """A class of the style sheet."""
    shape: str


def label_arms(names: Sequence[str]) -> dict[str, Label]:
    """Group arms into families by the number in which they differ.

    Args:
        names: Such as `esamp(beta=0.5, distiller=mean)`. Settings that a name leaves out and that
            another of the same method gives are filled in with their defaults.
    """
    parsed = _completed({name: _parse(name) for name in names})
    # How many arms stand beside each other when one number of theirs is left open.
    sizes = Counter(
        (method, key, _without(settings, key))
        for method, settings in parsed.values()
        for key, value in settings
        if _number(value) is not None
    )

    def parameter(method: str, settings: Settings) -> str | None:
        ranked = sorted(
            (-sizes[method, key, _without(settings, key)], _rank(key), key)
            for key, value in settings
            if _number(value) is not None
        )
        # An arm that stands alone is named by its strength all the same.
        sure = [key for size, rank, key in ranked if size < -1 or rank < len(FIRST)]
        return sure[0] if sure else None

    labels = [
        _label(name, method, settings, parameter(method, settings))
        for name, (method, settings) in parsed.items()
    ]
    families = Counter(label.family for label in labels)
    return {
        label.arm: label if families[label.family] > 1 else replace(label, short=tail(label.family))
        for label in labels
    }


def marks(labels: Mapping[str, Label]) -> dict[str, Mark]:
    """Return each family's mark; vanilla is neutral."""
    families = list(dict.fromkeys(each.family for each in labels.values() if not each.vanilla))
    result = {
        family: Mark(
            colour=f"c{place % COLOURS}", shape=SHAPES[(place + place // COLOURS) % len(SHAPES)]
        )
        for place, family in enumerate(families)
    }
    neutral = Mark(colour="plain", shape="circle")
    return result | {each.family: neutral for each in labels.values() if each.vanilla}


def sweeps(labels: Mapping[str, Label]) -> dict[str, dict[str, list[Label]]]:
    """Return what is swept: by parameter, then family, the arms in order of their values."""
    found: dict[str, dict[str, list[Label]]] = {}
    for label in labels.values():
        if label.parameter is not None:
            found.setdefault(label.parameter, {}).setdefault(label.family, []).append(label)
    result = {}
    for parameter, families in found.items():
        kept = {
            family: sorted(arms, key=lambda arm: arm.value or 0.0)
            for family, arms in families.items()
            if len({arm.value for arm in arms}) > 1
        }
        if kept:
            result[parameter] = kept
    return result


def tail(family: str) -> str:
    """Return a short name of a family: what sets it apart stands last."""
    return family if len(family) <= SHORT else family.rpartition(", ")[2]


def symbol(parameter: str) -> str:
    """Return how a parameter is written in plots."""
    return SYMBOLS.get(parameter, parameter.replace("_", " "))


def phrase(parameter: str) -> str:
    """Return how a parameter is written in sentences."""
    return PHRASES.get(parameter, symbol(parameter))


def _parse(name: str) -> tuple[str, Settings]:
    found = NAME.fullmatch(name)
    if found is None:
        return name, ()
    method, inside = found.groups()
    settings = []
    for part in _split(inside or ""):
        key, equals, value = part.partition("=")
        settings.append((key.strip(), value.strip()) if equals else ("", part.strip()))
    return method, tuple(settings)


def _completed(parsed: Mapping[str, tuple[str, Settings]]) -> dict[str, tuple[str, Settings]]:
    """Fill in what others of the same method give, and the strength or temperature in any case."""
    given: dict[str, dict[str, None]] = {}
    for method, settings in parsed.values():
        keys = given.setdefault(method, {"temperature" if method == "vanilla" else "beta": None})
        keys.update(dict.fromkeys(key for key, _ in settings))
    result = {}
    for name, (method, settings) in parsed.items():
        keys = {} if ON_CURVE.fullmatch(name) else given[method]
        wanted = [*keys, "temperature"] if method == "vanilla" else list(keys)
        missing = [key for key in dict.fromkeys(wanted) if key not in dict(settings)]
        filled = [(key, value) for key in missing if (value := _default(name, key)) is not None]
        result[name] = method, (*settings, *filled)
    return result


def _default(name: str, key: str) -> str | None:
    """Return the value of a setting that an arm's name leaves out; None if it has no such one."""
    try:
        arm = parse_arm(name)
    except UsageError:  # an arm of another version: its name is all that is known of it
        return None
    method = arm.method
    inner = [getattr(method, each, None) for each in ("distiller", "esamp")]
    inner += [getattr(inner[1], "distiller", None)]
    for part in (arm, method, arm.strategy, *inner):
        value = getattr(part, key, None)
        if isinstance(value, int | float):
            return f"{value:g}"
        if value is not None:
            return str(getattr(value, "name", value))
    return None


def _rank(key: str) -> int:
    return FIRST.index(key) if key in FIRST else len(FIRST)


def _split(inside: str) -> list[str]:
    """Split at the commas that are in no further brackets."""
    parts, depth = [""], 0
    for character in inside:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part for part in parts if part.strip()]


def _label(name: str, method: str, settings: Settings, parameter: str | None) -> Label:
    _, named = _parse(name)
    words = [
        value if not key or _number(value) is None else f"{symbol(key)} {value}"
        for key, value in _without(settings, parameter)
        # Defaults go without saying, but for the distiller.
        if (key, value) in named or key == "distiller"
    ]
    family = method if method == MATCHED else ", ".join([method, *words])
    value = _number(dict(settings)[parameter]) if parameter else None
    short = f"entropy of {', '.join(words)}" if method == MATCHED else family
    return Label(
        arm=name,
        family=family,
        parameter=parameter,
        value=value,
        short=short if parameter is None else f"{symbol(parameter)} {value:g}",
        vanilla=ON_CURVE.fullmatch(name) is not None,
    )


def _without(settings: Settings, key: str | None) -> Settings:
    return tuple(sorted((each, value) for each, value in settings if each != key))


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None
