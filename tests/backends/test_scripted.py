import pytest

from esamp.backends.scripted import ScriptedGenerator
from esamp.errors import UsageError
from esamp.generation import Request
from esamp.method import Vanilla

SCRIPT = ScriptedGenerator(texts={"Say hello.": ["Hello!", "Hi there."]})


def test_it_replays_the_texts_in_order():
    shares = []
    run = SCRIPT.generate(Request(prompts=["Say hello."], samples=2), Vanilla(), shares.append)
    assert [each.text for each in run.completions[0]] == ["Hello!", "Hi there."]
    assert run.stats.tokens == 3
    assert shares == [1.0]


@pytest.mark.parametrize(("prompt", "samples"), [("Say hello.", 3), ("Say bye.", 1)])
def test_a_script_that_is_too_short_is_an_error(prompt, samples):
    with pytest.raises(UsageError, match="add some"):
        SCRIPT.generate(Request(prompts=[prompt], samples=samples), Vanilla())
