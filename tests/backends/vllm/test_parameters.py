"""What servers and requests may say, and what they are told where they may not."""

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esamp.backends.vllm.parameters import EngineSettings, RequestSettings, parse_distiller
from esamp.baselines import Cooling, GaussianNoise, OverRIDE
from esamp.distiller import MeanDistiller
from esamp.errors import UsageError
from esamp.explorer import ESamp
from esamp.mlp import MLPDistiller
from esamp.recursive import RecursiveDistiller

DEFAULTS = ESamp(beta=0.25, scope="shared", truncation="fused")
TOO_LARGE = 10**400
"""A whole number that no float holds; JSON may have it."""


@pytest.fixture(autouse=True, scope="module")
def _as_users_have_it():
    """Types are not checked at run time, so whole numbers and wrong types reach our own checks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxtyping.config.jaxtyping_disable", True)
        yield


def find(config=None, **environment):
    return EngineSettings.find(config, environment)


def esamp(**settings):
    return {"esamp": settings}


def parse(**extra_args):
    return RequestSettings.parse(extra_args, DEFAULTS)


def refused(message):
    return pytest.raises(UsageError, match=re.escape(message))


# -- what an engine is started with ------------------------------------------------------------

PLAIN = EngineSettings()
STRENGTH = "give a number from 0 (off) to 4; 0.25 is usual"


@pytest.mark.parametrize("config", [None, {}, {"other": {"beta": 9}}, [1], "text", {"esamp": None}])
def test_nobody_asked(config):
    assert find(config) is None


@pytest.mark.parametrize(
    ("config", "environment", "settings"),
    [
        (esamp(), {}, PLAIN),
        (None, {"ESAMP_ENABLE": "1"}, PLAIN),
        ("text", {"ESAMP_ENABLE": "1"}, PLAIN),
        ({}, {"ESAMP_BETA": "0.25"}, EngineSettings(esamp=ESamp(beta=0.25))),
        ({}, {"ESAMP_BETA": "0"}, PLAIN),
        ({}, {"ESAMP_ENABLE": "1", "ESAMP_BETA": "2"}, EngineSettings(esamp=ESamp(beta=2.0))),
        (esamp(beta=0.5), {}, EngineSettings(esamp=ESamp(beta=0.5))),
        (esamp(beta=1), {}, EngineSettings(esamp=ESamp(beta=1.0))),
        (esamp(beta=4.0), {}, EngineSettings(esamp=ESamp(beta=4.0))),
        (esamp(max_groups=1), {}, EngineSettings(max_groups=1)),
        (
            esamp(allow_unproven=True, timing=True),
            {},
            EngineSettings(allow_unproven=True, timing=True),
        ),
        (
            esamp(cooling_final=0.5, cooling_over=8, push="orthogonal"),
            {},
            EngineSettings(
                esamp=ESamp(beta=0.0, push="orthogonal"), cooling_final=0.5, cooling_over=8
            ),
        ),
        (
            esamp(layer=3, scope="sample", truncation="fused", distiller="mean"),
            {},
            EngineSettings(
                esamp=ESamp(
                    beta=0.0,
                    layer=3,
                    scope="sample",
                    truncation="fused",
                    distiller=MeanDistiller(),
                )
            ),
        ),
    ],
)
def test_what_can_be_asked_for(config, environment, settings):
    assert find(config, **environment) == settings


def test_the_configuration_wins_over_the_environment():
    assert find(esamp(beta=0.5), ESAMP_BETA="2").esamp.beta == 0.5
    assert find(esamp(max_groups=2), ESAMP_BETA="2").esamp.beta == 2.0


@pytest.mark.parametrize("beta", ["much", "nan", "5"])
def test_what_the_environment_says_is_not_even_read_where_the_configuration_says_it(beta):
    assert find(esamp(beta=0.5), ESAMP_BETA=beta).esamp.beta == 0.5


@pytest.mark.parametrize("beta", ["", "0.25"])
def test_the_environment_switches_off_whatever_the_configuration_asks(beta):
    assert find(esamp(beta=0.5), ESAMP_ENABLE="0", ESAMP_BETA=beta) is None


def test_what_is_found_does_not_change_what_was_given():
    config = esamp(beta=0.5)
    find(config, ESAMP_BETA="2")
    assert config == esamp(beta=0.5)


@pytest.mark.parametrize(
    ("config", "environment", "message"),
    [
        (None, {"ESAMP_ENABLE": "yes"}, "ESAMP_ENABLE is 'yes': give 1 (on) or 0 (off)"),
        (esamp(), {"ESAMP_ENABLE": "2"}, "ESAMP_ENABLE is '2': give 1 (on) or 0 (off)"),
        (None, {"ESAMP_BETA": "much"}, "ESAMP_BETA is 'much': give a number"),
        (None, {"ESAMP_BETA": "nan"}, f"beta is nan: {STRENGTH}"),
        (None, {"ESAMP_BETA": "-inf"}, f"beta is -inf: {STRENGTH}"),
        (None, {"ESAMP_BETA": "5"}, f"beta is 5.0: {STRENGTH}"),
        (esamp(max_groups=2), {"ESAMP_BETA": "much"}, "ESAMP_BETA is 'much': give a number"),
        ({"esamp": 0.25}, {}, "additional_config['esamp'] is 0.25: give an object, {}"),
        ({"esamp": [1]}, {}, "additional_config['esamp'] is [1]: give an object, {}"),
        ({"esamp": True}, {}, "additional_config['esamp'] is True: give an object, {}"),
        (
            esamp(strength=1),
            {},
            "esamp has no setting 'strength': give one of allow_unproven, beta, capture, control, "
            "cooling_final, cooling_over, distiller, layer, learn_tokens, max_groups, push, scope, "
            "timing, truncation",
        ),
        (esamp(beta=5), {}, f"beta is 5: {STRENGTH}"),
        (esamp(beta=-0.5), {}, f"beta is -0.5: {STRENGTH}"),
        (esamp(beta=math.nan), {}, f"beta is nan: {STRENGTH}"),
        (esamp(beta=math.inf), {}, f"beta is inf: {STRENGTH}"),
        (esamp(beta=TOO_LARGE), {}, f"beta is 1{'0' * 79}…: {STRENGTH}"),
        (esamp(beta=True), {}, f"beta is True: {STRENGTH}"),
        (esamp(beta="0.25"), {}, f"beta is '0.25': {STRENGTH}"),
        (esamp(beta=None), {}, f"beta is None: {STRENGTH}"),
        (esamp(max_groups=0), {}, "max_groups is 0: give a whole number from 1 to 1000000"),
        (esamp(max_groups=1.5), {}, "max_groups is 1.5: give a whole number from 1"),
        (esamp(max_groups=True), {}, "max_groups is True: give a whole number from 1"),
        (esamp(max_groups=1_000_001), {}, "max_groups is 1000001: give a whole number from 1"),
        (esamp(layer=0), {}, "layer is 0: give a whole number from 1"),
        (esamp(layer="1"), {}, "layer is '1': give a whole number from 1"),
        (esamp(control="chaos"), {}, "control is 'chaos': give one of none, noise, sharpening"),
        (esamp(timing=1), {}, "timing is 1: give true or false"),
        (esamp(allow_unproven="yes"), {}, "allow_unproven is 'yes': give true or false"),
        (esamp(scope="galaxy"), {}, "scope is 'galaxy': give one of prompt, shared, sample"),
        (esamp(cooling_final=0), {}, "cooling_final is 0: give a number above 0"),
        (esamp(cooling_final=1.5), {}, "cooling_final is 1.5: give a number above 0, and at most"),
        (esamp(cooling_final=True), {}, "cooling_final is True: give a number"),
        (esamp(cooling_final="0.5"), {}, "cooling_final is '0.5': give a number"),
        (esamp(cooling_over=0), {}, "cooling_over is 0: give a whole number from 1"),
        (esamp(control="plain"), {}, "control is 'plain' and cooling_final is 1, so nothing would"),
        (esamp(push="up"), {}, "push is 'up': give one of residual, orthogonal"),
        (esamp(capture="no"), {}, "capture is 'no': give true or false"),
        (esamp(learn_tokens=0), {}, "learn_tokens is 0: give 1 or more, or none for all"),
        (esamp(learn_tokens="16"), {}, "learn_tokens is '16': give 1 or more"),
        (
            esamp(push="orthogonal", control="sharpening"),
            {},
            "push is 'orthogonal' and control is 'sharpening'",
        ),
        (esamp(truncation="none"), {}, "truncation is 'none': give one of reference, fused"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_an_engine_is_refused(config, environment, message):
    with refused(message):
        find(config, **environment)


def test_settings_in_one_line():
    assert find(esamp(beta=0.25, max_groups=8)).describe() == (
        "β 0.25 for all that say nothing, recursive distiller, scope prompt, truncation reference, "
        "8 groups"
    )
    assert "requests must ask (esamp_beta)" in PLAIN.describe()
    ours = find(esamp(push="orthogonal", cooling_final=0.5, learn_tokens=16)).describe()
    assert ours.endswith("256 groups, push orthogonal, learns from 16 tokens, cooling to 0.5")


# -- methods -----------------------------------------------------------------------------------

PUSH = ESamp(beta=0.5, push="orthogonal", distiller=MeanDistiller())
STILL = ESamp(beta=1.0, distiller=MeanDistiller())


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (PUSH, EngineSettings(esamp=PUSH)),
        (GaussianNoise(esamp=PUSH), EngineSettings(esamp=PUSH, control="noise")),
        (
            Cooling(within=PUSH, final=0.4, over=9),
            EngineSettings(esamp=PUSH, cooling_final=0.4, cooling_over=9),
        ),
        (
            Cooling(within=GaussianNoise(esamp=PUSH)),
            EngineSettings(esamp=PUSH, control="noise", cooling_final=0.6),
        ),
        (Cooling(), EngineSettings(esamp=STILL, control="plain", cooling_final=0.6)),
        (
            Cooling(within=ESamp(beta=0.0)),
            EngineSettings(esamp=STILL, control="plain", cooling_final=0.6),
        ),
    ],
)
def test_a_method_as_an_engines_settings(method, settings):
    assert EngineSettings.of(method) == settings
    cooling = replace(settings.cooling, within=method.within) if settings.cooling else None
    assert cooling == (method if isinstance(method, Cooling) else None)


@pytest.mark.parametrize("method", [OverRIDE(), Cooling(within=OverRIDE())])
def test_a_method_that_the_engine_does_not_have_is_refused(method):
    with refused("does not run on vLLM: use --backend transformers"):
        EngineSettings.of(method)


# -- distillers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "distiller"),
    [
        ("recursive", RecursiveDistiller()),
        ("mean", MeanDistiller()),
        ("mlp", MLPDistiller()),
        ({"name": "mlp"}, MLPDistiller()),
        ({"name": "mean", "ridge": 2.5}, MeanDistiller(ridge=2.5)),
        (
            {"name": "recursive", "features": 8, "ridge": 3, "seed": 1},
            RecursiveDistiller(features=8, ridge=3.0, seed=1),
        ),
        (
            {"name": "mlp", "width": 4, "learning_rate": 1e-3, "epsilon": 1e-5, "clip": 1.0},
            MLPDistiller(width=4, learning_rate=1e-3, epsilon=1e-5, clip=1.0),
        ),
        (MeanDistiller(ridge=2.0), MeanDistiller(ridge=2.0)),
    ],
)
def test_distillers_by_name_and_by_object(given_, distiller):
    assert parse_distiller(given_) == distiller
    assert find(esamp(distiller=given_)).esamp.distiller == distiller


ANY = "give one of recursive, mean, mlp, or an object with"
WHOLE = "give a whole number below 2^31"


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ("oracle", f"distiller is 'oracle': {ANY}"),
        (None, f"distiller is None: {ANY}"),
        (3, f"distiller is 3: {ANY}"),
        ({"width": 3}, f"distiller is {{'width': 3}}: {ANY}"),
        ({"name": "oracle"}, f"distiller is {{'name': 'oracle'}}: {ANY}"),
        ({"name": ["mlp"]}, f"distiller is {{'name': ['mlp']}}: {ANY}"),
        (
            {"name": "mlp", "features": 3},
            "the mlp distiller has no setting 'features': "
            "give one of clip, epsilon, learning_rate, name, seed, width",
        ),
        ({"name": "mlp", "width": True}, f"width is True: {WHOLE}"),
        ({"name": "mlp", "width": 1.5}, f"width is 1.5: {WHOLE}"),
        ({"name": "mlp", "width": "384"}, f"width is '384': {WHOLE}"),
        ({"name": "mlp", "width": 2**31}, f"width is 2147483648: {WHOLE}"),
        ({"name": "recursive", "seed": -(2**31)}, f"seed is -2147483648: {WHOLE}"),
        ({"name": "recursive", "features": TOO_LARGE}, f"features is 1{'0' * 79}…: {WHOLE}"),
        ({"name": "mlp", "clip": True}, "clip is True: give a number"),
        ({"name": "mean", "ridge": "1"}, "ridge is '1': give a number"),
        ({"name": "mlp", "width": 0}, "width is 0: give 1 or more"),
        ({"name": "recursive", "ridge": 0.0}, "ridge is 0.0: give a finite number, 0.01 or above"),
        ({"name": "recursive", "ridge": math.nan}, "ridge is nan: give a number"),
        ({"name": "mean", "ridge": -math.inf}, "ridge is -inf: give a number"),
        ({"name": "recursive", "ridge": TOO_LARGE}, f"ridge is 1{'0' * 79}…: give a number"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_distillers_that_are_refused(given_, message):
    with refused(message):
        find(esamp(distiller=given_))


# -- requests ----------------------------------------------------------------------------------

SILENT = RequestSettings(beta=0.25, truncation="fused", scope="shared", group=None)


@pytest.mark.parametrize("extra_args", [None, {}, {"top_k": 3, 5: 6, "samp_beta": 9, "Esamp": 1}])
def test_a_request_that_says_nothing_to_us_has_the_defaults(extra_args):
    assert RequestSettings.parse(extra_args, DEFAULTS) == SILENT


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("beta", value) for value in (0, 0.0, 1e-30, 0.5, 1, 4, 4.0)],
        *[("truncation", value) for value in ("reference", "fused")],
        *[("scope", value) for value in ("prompt", "shared", "sample")],
        *[("group", value) for value in ("g", "x" * 128, "é" * 64, " ")],
    ],
)
def test_each_key_changes_its_setting_and_no_other(name, value):
    settings = parse(**{f"esamp_{name}": value})
    assert vars(settings) == vars(SILENT) | {name: value}


def test_keys_go_together():
    settings = parse(esamp_beta=1.5, esamp_group="g", esamp_truncation="reference", other=1)
    assert settings == RequestSettings(beta=1.5, truncation="reference", scope="shared", group="g")


TEXT = "give text of 1 to 128 bytes"


@pytest.mark.parametrize(
    ("extra_args", "message"),
    [
        ({"esamp_beta": "x"}, f"esamp_beta is 'x': {STRENGTH}"),
        ({"esamp_beta": True}, f"esamp_beta is True: {STRENGTH}"),
        ({"esamp_beta": None}, f"esamp_beta is None: {STRENGTH}"),
        ({"esamp_beta": [0.5]}, f"esamp_beta is [0.5]: {STRENGTH}"),
        ({"esamp_beta": 4.1}, f"esamp_beta is 4.1: {STRENGTH}"),
        ({"esamp_beta": 5}, f"esamp_beta is 5: {STRENGTH}"),
        ({"esamp_beta": -1}, f"esamp_beta is -1: {STRENGTH}"),
        ({"esamp_beta": math.nan}, f"esamp_beta is nan: {STRENGTH}"),
        ({"esamp_beta": math.inf}, f"esamp_beta is inf: {STRENGTH}"),
        ({"esamp_beta": TOO_LARGE}, f"esamp_beta is 1{'0' * 79}…: {STRENGTH}"),
        ({"esamp_beta": -TOO_LARGE}, f"esamp_beta is -1{'0' * 78}…: {STRENGTH}"),
        ({"esamp_group": ""}, f"esamp_group is '': {TEXT}"),
        ({"esamp_group": "y" * 129}, f"esamp_group is '{'y' * 79}…: {TEXT}"),
        ({"esamp_group": "z" * 10_000}, f"esamp_group is '{'z' * 79}…: {TEXT}"),
        ({"esamp_group": "é" * 65}, f"esamp_group is '{'é' * 65}': {TEXT}"),
        ({"esamp_group": "\ud800"}, f"esamp_group is '\\ud800': {TEXT}"),
        ({"esamp_group": 7}, f"esamp_group is 7: {TEXT}"),
        ({"esamp_group": None}, f"esamp_group is None: {TEXT}"),
        ({"esamp_group": b"g"}, f"esamp_group is b'g': {TEXT}"),
        ({"esamp_truncation": "none"}, "esamp_truncation is 'none': give reference or fused"),
        ({"esamp_truncation": []}, "esamp_truncation is []: give reference or fused"),
        ({"esamp_scope": "all"}, "esamp_scope is 'all': give one of prompt, shared, sample"),
        ({"esamp_scope": {}}, "esamp_scope is {}: give one of prompt, shared, sample"),
        (
            {"esamp_group": "g", "esamp_scope": "shared"},
            "esamp_group and esamp_scope exclude each other: give one of them",
        ),
        (
            {"esamp_strength": 1},
            "'esamp_strength' is no key of esamp: give one of esamp_beta, esamp_group, "
            "esamp_truncation, esamp_scope",
        ),
        ({"esamp_": 1}, "'esamp_' is no key of esamp: give one of esamp_beta"),
        ({"esamp_layer": 1}, "'esamp_layer' is no key of esamp: give one of esamp_beta"),
        ({"esamp_" + "k" * 10_000: 1}, f"'esamp_{'k' * 73}… is no key of esamp"),
        ({"esamp": {"beta": 1}}, "esamp is no key of a request: give flat ones, for example"),
        ({"esamp": None}, "esamp is no key of a request: give flat ones, for example"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_a_request_is_refused(extra_args, message):
    with refused(message) as caught:
        RequestSettings.parse(extra_args, DEFAULTS)
    assert len(str(caught.value)) < 400


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**300), 10**300)
    | st.floats()
    | st.text(max_size=300)
    | st.sampled_from(["prompt", "shared", "reference", "fused"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.one_of(
    st.sampled_from(["esamp_beta", "esamp_group", "esamp_scope", "esamp_truncation"]),
    st.text().map("esamp_".__add__),
    st.just("esamp"),
    st.text(),
)


@given(st.none() | st.dictionaries(KEYS, JSON, max_size=4))
def test_whatever_a_request_says_it_is_understood_or_told_so_in_short(extra_args):
    settings, refusal = SILENT, ""
    try:
        settings = RequestSettings.parse(extra_args, DEFAULTS)
    except UsageError as error:
        refusal = str(error)
    assert len(refusal) < 400
    assert 0 <= settings.beta <= 4
    assert settings.group is None or 0 < len(settings.group.encode(errors="replace")) <= 128
