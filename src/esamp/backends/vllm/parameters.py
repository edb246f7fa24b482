"""What a server and a request may say: names, ranges and the error for everything else.

    vllm serve MODEL --additional-config '{"esamp": {"beta": 0.25}}'     requests that say nothing
    SamplingParams(n=16, extra_args={"esamp_beta": 0.25})                one request
    {"n": 16, "vllm_xargs": {"esamp_beta": 0.25}}                        one request, over HTTP

Nothing here imports vLLM: the same checks run in the API server and in the workers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

from esamp.backends.vllm.controls import Control
from esamp.baselines import Cooling, GaussianNoise, Sharpening
from esamp.distiller import Distiller, MeanDistiller
from esamp.errors import UsageError
from esamp.explorer import DISTILLERS, ESamp
from esamp.method import Method, Scope, Truncation

PREFIX = "esamp_"
LARGEST_BETA = 4.0
LONGEST_GROUP = 128
"""Bytes of a group's name."""


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What an engine is started with."""

    esamp: ESamp = ESamp(beta=0.0)
    """Defaults of requests; β 0: a request must ask."""
    max_groups: int = 256
    """Groups open at once, allocated at start; rows beyond are sampled plainly and counted."""
    allow_unproven: bool = False
    """Allow what is built but was never seen to work on a GPU: ngram speculation."""
    control: Control = "none"
    """What stands in ESamp's place for all requests, see `controls.py`."""
    cooling_final: float = 1.0
    """Temperature of a steered row from token `cooling_over` on, as a share of the request's; 1: it
    stays. See `esamp.baselines.cooling`."""
    cooling_over: int = 16
    """Tokens over which it falls."""
    timing: bool = False
    """Keep account of seconds; on a GPU each mark waits for the device. For benchmarks."""

    def __post_init__(self) -> None:
        _check_range("max_groups", self.max_groups, 1, 1_000_000)
        for name in ("allow_unproven", "timing"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name} is {getattr(self, name)!r}: give true or false")
        if self.control not in get_args(Control):
            allowed = ", ".join(get_args(Control))
            raise UsageError(f"control is {self.control!r}: give one of {allowed}")
        if self.control == "sharpening" and self.esamp.push == "orthogonal":
            raise UsageError(
                "push is 'orthogonal' and control is 'sharpening', which pushes along deep alone: "
                "give push 'residual', or another control"
            )
        _check_strength("beta", self.esamp.beta)
        _check_range("cooling_over", self.cooling_over, 1, 1_000_000)
        final = self.cooling_final
        if isinstance(final, bool) or not (isinstance(final, int | float) and 0 < final <= 1):
            raise UsageError(
                f"cooling_final is {final!r}: give a number above 0, and at most 1 (off)"
            )
        if self.control == "plain" and final == 1:
            raise UsageError(
                "control is 'plain' and cooling_final is 1, so nothing would be done: give a "
                "cooling_final below 1, or another control"
            )

    @property
    def cooling(self) -> Cooling | None:
        """How steered rows cool; None: they do not."""
        if self.cooling_final == 1:
            return None
        return Cooling(final=self.cooling_final, over=self.cooling_over)

    @classmethod
    def of(cls, method: Method) -> "EngineSettings":
        """Return a method as an engine runs it: ESamp or a control in its place, cooled or not.

        A method that does nothing needs no engine's settings: its requests ask for no strength.

        Raises:
            UsageError: The method does not run on vLLM.
        """
        if isinstance(method, ESamp):
            return cls(esamp=method)
        if isinstance(method, GaussianNoise):
            return cls(esamp=method.esamp, control="noise")
        if isinstance(method, Sharpening):
            # The smallest distiller: it is not asked.
            esamp = ESamp(beta=method.beta, distiller=MeanDistiller(), truncation=method.truncation)
            return cls(esamp=esamp, control="sharpening")
        if isinstance(method, Cooling):
            cooling: dict[str, Any] = {"cooling_final": method.final, "cooling_over": method.over}
            if method.within.inert:
                # Engines cool what they steer, so plain rows are steered by nothing.
                still = ESamp(beta=1.0, distiller=MeanDistiller())
                return cls(esamp=still, control="plain", **cooling)
            return replace(cls.of(method.within), **cooling)
        raise UsageError(f"method {method.name!r} does not run on vLLM: use --backend transformers")

    @classmethod
    def find(
        cls, additional_config: Any, environment: Mapping[str, str]
    ) -> "EngineSettings | None":
        """Return the settings asked for in vLLM's `additional_config` or the environment.

        `ESAMP_ENABLE=1` is `{"esamp": {}}`, `ESAMP_BETA=0.25` is `{"esamp": {"beta": 0.25}}`; what
        stands in the configuration wins. None: nobody asked.

        Raises:
            UsageError: A name is unknown or a value cannot be used.
        """
        config = additional_config if isinstance(additional_config, Mapping) else {}
        asked = config.get("esamp")
        enable, beta = environment.get("ESAMP_ENABLE", ""), environment.get("ESAMP_BETA", "")
        if enable not in ("", "0", "1"):
            raise UsageError(f"ESAMP_ENABLE is {enable!r}: give 1 (on) or 0 (off)")
        if enable == "0" or (asked is None and not enable and not beta):
            return None
        if asked is not None and not isinstance(asked, Mapping):
            raise UsageError(
                f"additional_config['esamp'] is {asked!r}: give an object, {{}} for the defaults"
            )
        given = dict(asked or {})
        if beta and "beta" not in given:
            given["beta"] = _number("ESAMP_BETA", beta)
        return cls.parse(given)

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> "EngineSettings":
        """Build settings from flat names.

        Raises:
            UsageError: A name is unknown or a value cannot be used.
        """
        engine = {field.name for field in fields(cls)} - {"esamp"}
        method = {field.name for field in fields(ESamp)}
        for name in given:
            if name not in engine | method:
                allowed = ", ".join(sorted(engine | method))
                raise UsageError(f"esamp has no setting {name!r}: give one of {allowed}")
        values = {"beta": 0.0} | {name: given[name] for name in method if name in given}
        _check_strength("beta", values["beta"])
        if "distiller" in values:
            values["distiller"] = parse_distiller(values["distiller"])
        if "layer" in values:
            _check_range("layer", values["layer"], 1, 1_000_000)
        return cls(esamp=ESamp(**values), **{name: given[name] for name in engine if name in given})

    def describe(self) -> str:
        """Return one line for the log."""
        esamp = self.esamp
        asked = "requests must ask (esamp_beta)" if esamp.beta == 0 else "for all that say nothing"
        return (
            f"β {esamp.beta:g} {asked}, {esamp.distiller.name} distiller, scope {esamp.scope}, "
            f"truncation {esamp.truncation}, {self.max_groups} groups"
            + ("" if esamp.push == "residual" else f", push {esamp.push}")
            + ("" if esamp.learn_tokens is None else f", learns from {esamp.learn_tokens} tokens")
            + ("" if self.cooling is None else f", cooling to {self.cooling_final:g}")
            + ("" if self.control == "none" else f", control {self.control}")
        )


def parse_distiller(given: Any) -> Distiller:
    """Build a distiller from its name, or from an object with its name and settings.

    Raises:
        UsageError: The name or a setting is unknown, or a value cannot be used.
    """
    if isinstance(given, Distiller):
        return given
    settings = {"name": given} if isinstance(given, str) else given
    name = settings.get("name") if isinstance(settings, Mapping) else None
    if not isinstance(name, str) or name not in DISTILLERS:
        raise UsageError(
            f"distiller is {given!r}: give one of {', '.join(DISTILLERS)}, or an object with "
            'such a "name" and its settings'
        )
    kind = DISTILLERS[name]
    allowed = {field.name: field.type for field in fields(kind)}
    for setting, value in settings.items():
        if setting not in allowed:
            raise UsageError(
                f"the {name} distiller has no setting {setting!r}: "
                f"give one of {', '.join(sorted(allowed))}"
            )
        whole = allowed[setting] in (int, "int")
        if setting != "name" and not (_is_whole(value) if whole else _is_number(value)):
            kind_of = "whole number below 2^31" if whole else "number"
            raise UsageError(f"{setting} is {_short(value)}: give a {kind_of}")
    return kind(**settings)


@dataclass(frozen=True, kw_only=True)
class RequestSettings:
    """What one request says, with the engine's defaults for the rest."""

    beta: float
    truncation: Truncation
    scope: Scope
    group: str | None = None
    """Name of a group that is shared across requests."""

    @classmethod
    def parse(cls, extra_args: Mapping[str, Any] | None, defaults: ESamp) -> "RequestSettings":
        """Read the flat keys `esamp_…` of a request; other keys belong to others.

        Raises:
            UsageError: A key is unknown or a value cannot be used.
        """
        settings = cls(beta=defaults.beta, truncation=defaults.truncation, scope=defaults.scope)
        given = {
            name.removeprefix(PREFIX): value
            for name, value in (extra_args or {}).items()
            if isinstance(name, str) and name.startswith(PREFIX)
        }
        if "esamp" in (extra_args or {}):
            raise UsageError("esamp is no key of a request: give flat ones, for example esamp_beta")
        for name, value in given.items():
            if name not in _CHECKS:
                allowed = ", ".join(f"{PREFIX}{each}" for each in _CHECKS)
                raise UsageError(
                    f"{_short(PREFIX + name)} is no key of esamp: give one of {allowed}"
                )
            _CHECKS[name](PREFIX + name, value)
        if "group" in given and "scope" in given:
            raise UsageError("esamp_group and esamp_scope exclude each other: give one of them")
        return replace(settings, **given)


def _check_strength(name: str, value: Any) -> None:
    # NaN is in no range.
    if not _is_number(value) or not 0 <= value <= LARGEST_BETA:
        allowed = f"a number from 0 (off) to {LARGEST_BETA:g}"
        raise UsageError(f"{name} is {_short(value)}: give {allowed}; 0.25 is usual")


def _check_group(name: str, value: Any) -> None:
    # Half a surrogate pair is text that no engine can send to its workers.
    if not isinstance(value, str) or not 0 < len(_utf8(value)) <= LONGEST_GROUP:
        raise UsageError(f"{name} is {_short(value)}: give text of 1 to {LONGEST_GROUP} bytes")


def _utf8(text: str) -> bytes:
    """Return a text's bytes; none where it has none."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return b""


def _check_truncation(name: str, value: Any) -> None:
    if value not in get_args(Truncation):
        raise UsageError(f"{name} is {_short(value)}: give {' or '.join(get_args(Truncation))}")


def _check_scope(name: str, value: Any) -> None:
    if value not in get_args(Scope):
        raise UsageError(f"{name} is {_short(value)}: give one of {', '.join(get_args(Scope))}")


def _check_range(name: str, value: Any, least: int, most: int) -> None:
    if not _is_whole(value) or not least <= value <= most:
        raise UsageError(f"{name} is {value!r}: give a whole number from {least} to {most}")


_CHECKS = {
    "beta": _check_strength,
    "group": _check_group,
    "truncation": _check_truncation,
    "scope": _check_scope,
}


def _is_number(value: Any) -> bool:
    # A whole number may be too large for any float.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e38


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"{name} is {text!r}: give a number") from error


def _short(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 10_000:  # Python does not print all
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"
