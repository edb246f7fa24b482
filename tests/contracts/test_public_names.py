"""What `import esamp` offers is a promise: whoever changes it changes this list."""

import inspect

import pytest

import esamp

PUBLIC = {
    "ESamp",
    "EsampError",
    "Explorer",
    "InertWarning",
    "MLPDistiller",
    "MeanDistiller",
    "MissingDependencyError",
    "ModelError",
    "RecursiveDistiller",
    "UsageError",
    "Vanilla",
}
ON_DEMAND = {"Decoding", "generate"}
"""They load Transformers, so they are looked up when first asked for."""


def test_the_public_names_are_these():
    assert {
        name
        for name, value in vars(esamp).items()
        if not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value))
    } == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC | ON_DEMAND))
def test_each_is_documented(name):
    if name in ON_DEMAND:
        pytest.importorskip("transformers")
    text = getattr(esamp, name).__doc__
    assert text
    assert not text.startswith(f"{name}("), "a dataclass writes its signature where it has no text"


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'esamp' has no attribute 'beam_search'"):
        esamp.beam_search  # noqa: B018  (the lookup is what is tested)


def test_it_has_a_version():
    assert esamp.__version__.count(".") == 2
