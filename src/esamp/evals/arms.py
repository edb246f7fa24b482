"""The arms of a comparison, in the words of the command line.

    esamp(beta=0.5, distiller=mean)    vanilla(temperature=0.8)    fire(within=esamp(beta=0.25))

An arm is a word and settings. Every word takes temperature, top_p, top_k and min_p; the others are
the fields of its method, those of a distiller among them. An arm's name is made from what it is:
settings that have their default are left out, so equal arms have equal names, and `parse_arm` reads
each name back. Text is only ever taken apart here, and never run.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from esamp.baselines import (
    ContrastiveDecoding,
    Cooling,
    Fire,
    FrequencyPenalty,
    GaussianNoise,
    Moderated,
    Neighbour,
    OverRIDE,
    Part,
    RandomSteering,
    Sharpening,
    Subtraction,
    TreeOfThoughts,
    VocabularySpace,
)
from esamp.distiller import Distiller
from esamp.errors import UsageError
from esamp.explorer import DISTILLERS, ESamp
from esamp.generation import Sampling
from esamp.method import Method, Vanilla

Strategy = Callable[[str], str]
"""From an item's prompt to the one that the model is given."""

PLAIN = Vanilla()
MATCHED = "entropy-matched"
SAMPLING = {"temperature": float, "top_p": float, "top_k": int, "min_p": float}
ON_VLLM = (Vanilla, ESamp, GaussianNoise, Sharpening)
"""Methods that the vLLM backend has, alone, cooled, or behind FIRE."""

LONGEST = 1000
"""Characters of an arm, which bound how deep arms within arms can lie."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A method, how tokens are drawn and how the model is asked."""

    method: Method = PLAIN
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    strategy: Strategy | None = None
    """Rewrites prompts; None leaves them as they are."""
    matched_to: str | None = None
    """Name of the arm whose entropy the run is to match by the temperature, which is open here."""

    def __post_init__(self) -> None:
        self.sampling(1)
        if self.temperature == 0 and not isinstance(self.method, Vanilla):
            raise UsageError(
                "temperature is 0, and greedy decoding is plain whatever the method: give a "
                "higher one, or compare with vanilla(temperature=0)"
            )

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """Name in records, tables and reports: the shortest text that is read back as this arm."""
        if self.matched_to is not None:
            return f"{MATCHED}(arm={self.matched_to})"
        kinds = (type(self.method), type(self.strategy))
        names = [
            (word, _differing(self, base))
            for word, base in WORDS.items()
            if (type(base.method), type(base.strategy)) == kinds
        ]
        if not names:
            raise UsageError(f"method {self.method.name!r} has no word among {_listed(WORDS)}")
        word, settings = min(names, key=lambda each: len(each[1]))
        inner = ", ".join(f"{key}={_format(value)}" for key, value in settings.items())
        return f"{word}({inner})" if inner else word

    @property
    def runs_on_vllm(self) -> bool:
        """Whether the vLLM backend has this method; where not, Transformers has."""
        method = self.method.within if isinstance(self.method, Fire) else self.method
        if isinstance(method, Cooling):
            method = method.within
        return isinstance(method, ON_VLLM)

    def sampling(self, max_new_tokens: int, temperature: float | None = None) -> Sampling:
        """Return how tokens are drawn; `temperature` is the one found for an entropy-matched arm.

        Raises:
            UsageError: A value is out of range.
        """
        return Sampling(
            temperature=self.temperature if temperature is None else temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            max_new_tokens=max_new_tokens,
        )


WORDS: Mapping[str, Arm] = {
    # Where two words say an arm with equally many settings, the first gives its name.
    "min-p": Arm(min_p=0.1),
    "vanilla": Arm(),
    "fire": Arm(method=Fire()),
    "override": Arm(method=OverRIDE()),
    "contrastive": Arm(method=ContrastiveDecoding()),
    "tree-of-thoughts": Arm(strategy=TreeOfThoughts()),
    "esamp": Arm(method=ESamp()),
    "esamp-paper": Arm(method=ESamp.paper()),
    "kl-budget": Arm(method=Moderated(budget=0.1)),
    "entropy-gate": Arm(method=Moderated(gate=1.0)),
    "clip": Arm(method=Moderated(reach=0.1)),
    "warm-up": Arm(method=Moderated(warm_up=16)),
    "decay": Arm(method=Moderated(beta_halflife=64.0)),
    "cooling": Arm(method=Cooling()),
    "sharpening": Arm(method=Sharpening()),
    "noise": Arm(method=GaussianNoise()),
    "random-steering": Arm(method=RandomSteering()),
    "part": Arm(method=Part()),
    "neighbour": Arm(method=Neighbour()),
    "frequency-penalty": Arm(method=FrequencyPenalty()),
    "subtraction": Arm(method=Subtraction()),
    "vocabulary": Arm(method=VocabularySpace()),
}
"""What an arm may be called, with its defaults; and `entropy-matched(arm=…)`."""


def parse_arm(text: str) -> Arm:
    """Read an arm.

    Args:
        text: A word, with settings in parentheses if there are any. A value that is neither a
            number, a word nor an arm stands in quotes.

    Raises:
        UsageError: A word or setting is unknown, or a value cannot be used; it lists what exists.
    """
    try:
        return _parse(text)
    except UsageError as error:
        raise UsageError(f"arm {text[:LONGEST]!r}: {error}") from error


def _parse(text: str) -> Arm:
    word, given = _take_apart(text)
    if word == MATCHED:
        return _matched(given)
    if word not in WORDS:
        raise UsageError(f"there is no arm {word!r}: give one of {_listed([*WORDS, MATCHED])}")
    base, rest = WORDS[word], dict(given)
    arm = replace(
        base,
        method=_build(base.method, rest),
        strategy=None if base.strategy is None else _build(base.strategy, rest),
        **{
            name: _convert(name, rest.pop(name), kind)
            for name, kind in SAMPLING.items()
            if name in rest
        },
    )
    if rest:
        raise UsageError(
            f"{word} has no setting {next(iter(rest))!r} here: give one of {_listed(_flatten(arm))}"
        )
    return arm


def _matched(given: Mapping[str, str]) -> Arm:
    """Return vanilla with the truncation and the prompts of the arm that it is matched to."""
    if set(given) != {"arm"}:
        raise UsageError(f"{MATCHED} takes one setting, arm: give {MATCHED}(arm=esamp), say")
    target = _parse(given["arm"])
    if target.matched_to is not None:
        raise UsageError(f"{MATCHED} of an {MATCHED} arm would be itself: give another arm")
    return replace(target, method=PLAIN, temperature=1.0, matched_to=target.name)


# --- settings -----------------------------------------------------------------------------------

INLINED = ("esamp", "distiller")
"""Fields whose own fields are settings of the arm, as if they were the method's."""


def _flatten(arm: Arm) -> dict[str, Any]:
    """Return all settings of an arm by their names on the command line."""
    parts = _settings(arm.method) | _settings(arm.strategy)
    return parts | {name: getattr(arm, name) for name in SAMPLING}


def _settings(part: Any) -> dict[str, Any]:
    """Return the fields of a method, strategy or distiller, those of parts within it inlined."""
    found: dict[str, Any] = {}
    for name in _field_names(part):
        value = getattr(part, name)
        if name == "distiller":
            found[name] = value.name
        found |= _settings(value) if name in INLINED else {name: value}
    return found


def _field_names(part: Any) -> list[str]:
    # Plain decoding has fields, since the protocol asks for them, and nothing to set.
    if part is None or isinstance(part, Vanilla):
        return []
    return [field.name for field in fields(part) if field.name != "name"]


def _build(part: Any, given: dict[str, str]) -> Any:
    """Return a method, strategy or distiller with what is given, taking that out of `given`."""
    kinds, changes = get_type_hints(type(part)), {}
    for name in _field_names(part):
        value = getattr(part, name)
        if name == "distiller":
            value = _choose_distiller(value, given.pop(name, None))
        if name in INLINED:
            changes[name] = _build(value, given)
        elif name in given:
            changes[name] = _convert(name, given.pop(name), kinds[name])
    return replace(part, **changes) if changes else part


def _choose_distiller(usual: Distiller, name: str | None) -> Distiller:
    if name is None or name == usual.name:
        return usual
    if name not in DISTILLERS:
        raise UsageError(f"distiller is {name!r}: give one of {_listed(DISTILLERS)}")
    return DISTILLERS[name]()


def _differing(arm: Arm, base: Arm) -> dict[str, Any]:
    """Return the settings of an arm that a word does not have by itself."""
    settings = _flatten(arm)
    # Another distiller brings its own defaults with it.
    chosen = {name: settings[name] for name in ("distiller",) if name in settings}
    usual = _flatten(replace(base, method=_build(base.method, dict(chosen))))
    if chosen:
        usual["distiller"] = _flatten(base)["distiller"]
    return {name: value for name, value in settings.items() if value != usual[name]}


# --- text ---------------------------------------------------------------------------------------

BARE = re.compile(r"[^\s()=,\"']+")
QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'", re.DOTALL)
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
NOTHING = "none"
WHOLE = re.compile(r"[+-]?\d+", re.ASCII)


def _take_apart(text: str) -> tuple[str, dict[str, str]]:
    """Return the word and the settings of an arm as text, values without their quotes."""
    if len(text) > LONGEST:
        raise UsageError(f"it has {len(text)} characters: give {LONGEST} at most")
    word, _, rest = text.strip().partition("(")
    word = word.strip()
    if BARE.fullmatch(word) is None or (rest and not rest.endswith(")")):
        raise UsageError("give a word such as esamp, or word(setting=value, setting=value)")
    if text.strip().endswith("("):
        raise UsageError("the parenthesis is not closed: give word(setting=value)")
    given: dict[str, str] = {}
    for piece in _split(rest[:-1]):
        name, equals, value = (each.strip() for each in piece.partition("="))
        if not (equals and value and BARE.fullmatch(name)):
            raise UsageError(f"{piece.strip()!r} is no setting: give setting=value")
        if name in given:
            raise UsageError(f"{name} is there twice: give it once")
        if QUOTED.fullmatch(value):
            value = re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL)
        given[name] = value
    return word, given


def _split(text: str) -> list[str]:
    """Split settings at the commas that stand in no quotes and no parentheses."""
    pieces, start, at, depth = [], 0, 0, 0
    while at < len(text):
        quoted = QUOTED.match(text, at)
        if quoted is not None:
            at = quoted.end()
            continue
        depth += (text[at] == "(") - (text[at] == ")")
        if depth < 0 or text[at] in "\"'":
            raise UsageError("quotes and parentheses do not pair up: give word(setting=value)")
        if text[at] == "," and depth == 0:
            pieces.append(text[start:at])
            start = at + 1
        at += 1
    if depth > 0:
        raise UsageError("a parenthesis is not closed: give word(setting=value)")
    last = text[start:]
    return [*pieces, last] if last.strip() else pieces


def _convert(name: str, text: str, kind: Any) -> Any:
    """Return a value of a setting's type."""
    if kind is Method:
        return _method_of(name, text)
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise UsageError(f"{name} is {text!r}: give one of {_listed(get_args(kind))}")
        return text
    if kind is bool:
        if text not in ("true", "false"):
            raise UsageError(f"{name} is {text!r}: give true or false")
        return text == "true"
    if kind == int | None:
        return None if text == NOTHING else _convert(name, text, int)
    if kind in (int, float):
        return _number(name, text, kind)
    assert kind is str, f"no setting of a method is a {kind}"
    return text


def _number(name: str, text: str, kind: type[int] | type[float]) -> int | float:
    if kind is int:
        if WHOLE.fullmatch(text) is None or abs(int(text)) >= 2**63:
            raise UsageError(f"{name} is {text!r}: give a whole number below 2^63")
        return int(text)
    if NUMBER.fullmatch(text) is None:
        raise UsageError(f"{name} is {text!r}: give a number")
    return float(text) + 0.0  # −0 is 0, also in names


def _method_of(name: str, text: str) -> Method:
    arm = _parse(text)
    if arm != Arm(method=arm.method):
        raise UsageError(
            f"{name} is {text!r}: give a method alone, and what else there is (temperature, "
            "truncation, prompts) to the outer arm"
        )
    return arm.method


def _format(value: Any) -> str:
    if isinstance(value, Method):
        return Arm(method=value).name
    if isinstance(value, str):
        return value if BARE.fullmatch(value) else _quote(value)
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value).removesuffix(".0")


def _quote(value: str) -> str:
    escaped = re.sub(r"([\"\\])", r"\\\1", value)
    return f'"{escaped}"'


def _listed(names: Any) -> str:
    return ", ".join(names)
