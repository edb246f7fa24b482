import pytest
import torch

import esamp
from backends.transformers.calls import ENDS, LONG, SHORT, batch_sizes, drawn, sample
from backends.transformers.replay import teacher_forced
from esamp import ModelError
from esamp.backends.transformers import amateur as module
from esamp.backends.transformers.amateur import follow
from esamp.backends.transformers.states import check_states
from esamp.baselines import ContrastiveDecoding
from tiny import VOCAB, batch, tiny, tiny_tokenizer

STEPS = 9


@pytest.fixture(autouse=True)
def forget():
    module._load.cache_clear()


@pytest.fixture
def saved(tmp_path):
    """Saves a tiny model with its tokenizer, and returns both the model and its path."""

    def save(family="llama", **overrides):
        model = tiny(family, seed=5, **overrides)
        model.save_pretrained(tmp_path)
        tiny_tokenizer().save_pretrained(tmp_path)
        return model, str(tmp_path)

    return save


def contrastive(path):
    return ContrastiveDecoding(amateur=path, alpha=0.05)


def dense_logits(model, output, samples):
    mask = batch(SHORT, LONG)["attention_mask"].repeat_interleave(samples, dim=0)
    _, deep = teacher_forced(model, output.sequences, mask, steps=STEPS)
    with torch.no_grad():
        logits = check_states(model, 1).head(deep.flatten(0, 1))
    return logits.view(*deep.shape[:2], -1)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2", "granite"])
def test_contrastive_decoding_with_a_second_model(saved, family):
    """Scores are those of both models on the final texts, whose prompts differ in length."""
    model, (other, path) = tiny("llama"), saved(family, num_hidden_layers=2, layer_types=None)
    output = sample(
        model,
        SHORT,
        LONG,
        method=contrastive(path),
        samples=3,
        tokens=STEPS,
        temperature=0.7,
        output_scores=True,
    )
    expert, amateur = (dense_logits(each, output, 3) for each in (model, other))
    odds = expert.softmax(dim=-1)
    plausible = odds >= 0.05 * odds.amax(dim=-1, keepdim=True)
    scores = (1.5 * expert - 0.5 * amateur).where(plausible, -torch.inf) / 0.7
    seen = torch.stack(output.scores, dim=1)
    assert torch.equal(seen.isfinite(), plausible)
    torch.testing.assert_close(seen[plausible], scores[plausible], atol=2e-3, rtol=1e-3)


def test_rows_leave_the_amateur_with_the_model(saved, monkeypatch):
    model, (_, path) = tiny("llama"), saved()
    model.generation_config.eos_token_id = ENDS
    options = {"method": contrastive(path), "samples": 8, "tokens": 20}
    sizes = batch_sizes(module._load(path, "float32", "cpu"))
    dropped = sample(model, SHORT, LONG, **options)
    assert sizes[0] == 16
    assert min(sizes) < 8, "rows left"
    monkeypatch.setattr(module, "is_selectable", lambda cache: False)
    sizes.clear()
    assert drawn(sample(model, SHORT, LONG, **options)) == drawn(dropped)
    assert set(sizes) == {16}, "where the cache does not allow it they stay, and are not looked at"


def test_it_is_loaded_once(saved, monkeypatch):
    model, (_, path) = tiny("llama"), saved()
    loads = []
    load = module.load
    monkeypatch.setattr(module, "load", lambda *given: loads.append(given) or load(*given))
    for _ in range(2):
        sample(model, SHORT, method=contrastive(path), tokens=2)
    assert loads == [(path, "float32", "cpu")]


def test_it_has_the_models_dtype(saved):
    model, (_, path) = tiny("llama").to(torch.bfloat16), saved()
    sample(model, SHORT, method=contrastive(path), tokens=2)
    assert module._load(path, "bfloat16", "cpu").dtype == torch.bfloat16
    assert module._load.cache_info().hits == 1


@pytest.mark.parametrize("vocab", [VOCAB - 1, VOCAB + 1])
def test_a_few_rows_of_padding_in_the_vocabulary_are_no_other_tokenizer(saved, vocab):
    model, (_, path) = tiny("llama"), saved(vocab_size=vocab)
    output = sample(model, SHORT, method=contrastive(path), output_scores=True)
    scores = torch.stack(output.scores)
    assert scores.shape[-1] == VOCAB
    assert vocab >= VOCAB or (scores[..., vocab:] == -torch.inf).all()
    assert output.logprobs.isfinite().all()


def test_another_vocabulary_is_refused(saved):
    _, path = saved(vocab_size=VOCAB + 10)
    with pytest.raises(ModelError, match=r"has 107 tokens and the model has 97: .* same tokenizer"):
        follow(tiny("llama"), [SHORT], path)


def test_a_model_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ModelError, match="cannot be loaded: give a Hub id or a local folder"):
        follow(tiny("llama"), [SHORT], str(tmp_path / "nothing"))


def test_prompts_that_are_more_than_tokens_are_refused(saved):
    model, (_, path) = tiny("llama"), saved()
    embeddings = model.get_input_embeddings()(torch.tensor([SHORT])).detach()
    with pytest.raises(ModelError, match=r"reads token ids, and these prompts are more than that"):
        esamp.generate(
            model, inputs_embeds=embeddings, method=contrastive(path), max_new_tokens=2, top_k=0
        )
