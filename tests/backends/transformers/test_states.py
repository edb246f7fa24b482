import pytest
import torch
from transformers import LogitsProcessor

from backends.transformers.calls import LONG, SHORT, Watching, sample
from backends.transformers.replay import teacher_forced, with_head_bias
from esamp import ESamp, ModelError
from esamp.backends.transformers.states import check_states, find_block, first_tensor
from tiny import FAMILIES, batch, tiny


@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_shows_its_states(family, layer):
    check_states(tiny(family), layer)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_method_sees_hidden_state_one_and_the_last(family):
    model, watching = tiny(family), Watching()
    output = sample(model, SHORT, LONG, method=watching, samples=2, tokens=5)
    mask = batch(SHORT, LONG)["attention_mask"].repeat_interleave(2, dim=0)
    shallow, deep = teacher_forced(model, output.sequences, mask, steps=5)
    seen_shallow = torch.stack([step.shallow for step in watching.steps], dim=1)
    seen_deep = torch.stack([step.deep for step in watching.steps], dim=1)
    torch.testing.assert_close(seen_shallow, shallow, atol=1e-4, rtol=0)
    torch.testing.assert_close(seen_deep, deep, atol=1e-4, rtol=0)


def test_shallow_knows_the_context_and_not_only_the_last_token():
    watching = Watching()
    sample(tiny("llama"), [11, 12, 13], [14, 15, 13], method=watching, samples=1, tokens=1)
    one, other = watching.steps[0].shallow
    assert (one - other).norm() > 0.01 * one.norm()


def hooks(model):
    # Transformers keeps hooks of its own once hidden states have been asked for.
    model(input_ids=torch.tensor([SHORT]), output_hidden_states=True)
    return [(*each._forward_hooks, *each._forward_pre_hooks) for each in model.modules()]


def test_hooks_leave_with_the_call():
    model = tiny("llama")
    before = hooks(model)
    sample(model, SHORT)
    assert hooks(model) == before


class Failing(LogitsProcessor):
    def __call__(self, input_ids, scores):
        raise RuntimeError("out of luck")


def test_hooks_leave_after_an_error_too():
    model = tiny("llama")
    before = hooks(model)
    with pytest.raises(RuntimeError, match="out of luck"):
        sample(model, SHORT, logits_processor=[Failing()])
    assert hooks(model) == before


def test_a_head_that_reads_something_else_is_refused():
    model = tiny("llama")
    model.lm_head.register_forward_pre_hook(lambda _module, args: (2 * args[0],))
    with pytest.raises(ModelError, match="head of LlamaForCausalLM does not read the model's last"):
        sample(model, SHORT)


def test_a_family_whose_blocks_give_no_hidden_state_is_refused():
    with pytest.raises(ModelError, match="block 1 of MambaForCausalLM does not give hidden state"):
        sample(tiny("mamba"), SHORT)


def test_states_of_different_widths_are_refused():
    model = tiny("opt", word_embed_proj_dim=16, ffn_dim=64)
    with pytest.raises(ModelError, match="shallow states of width 32 and deep ones of width 16"):
        sample(model, SHORT)


def test_a_layer_that_the_model_does_not_have_is_refused():
    with pytest.raises(ModelError, match="layer is 4, and LlamaForCausalLM has 3 blocks"):
        sample(tiny("llama"), SHORT, method=ESamp(layer=4))


def test_a_model_without_a_head_is_refused():
    with pytest.raises(ModelError, match="LlamaModel has no output embeddings"):
        check_states(tiny("llama").model, 1)


def test_damaged_weights_are_refused():
    model = tiny("llama")
    model.model.layers[1].mlp.down_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        sample(model, SHORT)


# --- what methods may use -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_its_head_with_what_comes_behind_it(family, dtype):
    model = tiny(family).to(dtype)
    parts = check_states(model, 1)
    with torch.no_grad():
        shown = model(input_ids=torch.tensor([LONG]), output_hidden_states=True)
    deep = shown.hidden_states[-1][0].float()
    tolerance = {"atol": 1e-4, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.1, "rtol": 0}
    torch.testing.assert_close(parts.head(deep), shown.logits[0].float(), **tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_single_rows_of_the_head_are_those_of_the_whole(family, dtype):
    """Where logits are capped there are none: the change of one is not what its row makes of it."""
    model = with_head_bias(tiny(family)) if family == "llama" else tiny(family)
    parts = check_states(model.to(dtype), 1)
    if family == "gemma2":
        assert parts.head_rows is None
        return
    assert parts.head_rows.vocab == model.config.vocab_size
    deep, change = torch.randn(2, 3, parts.head_rows.weight.shape[1])
    tokens = torch.tensor([[5, 0], [96, 5], [7, 8]])
    whole = check_states(model.float(), 1).head
    expected = (whole(deep + change) - whole(deep)).gather(1, tokens)
    torch.testing.assert_close(
        parts.head_rows.change(change, tokens), expected, atol=1e-4, rtol=1e-4
    )


def test_a_head_that_is_no_plain_one_gives_no_rows():
    class Adapted(torch.nn.Linear):
        pass

    model = tiny("llama", tie_word_embeddings=False)
    head = Adapted(*reversed(model.lm_head.weight.shape), bias=False)
    head.load_state_dict(model.lm_head.state_dict())
    model.lm_head = head
    parts = check_states(model, 1)
    assert parts.head is not None
    assert parts.head_rows is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_its_final_norm(family, dtype):
    """Behind the last block it gives what the head reads."""
    model, last = tiny(family).to(dtype), []
    parts = check_states(model, 3)
    handle = find_block(model, 3).register_forward_hook(
        lambda _module, _args, output: last.append(first_tensor(output))
    )
    with torch.no_grad():
        shown = model(input_ids=torch.tensor([LONG]), output_hidden_states=True)
        handle.remove()
        normed = parts.norm(last[0][0].float())
    torch.testing.assert_close(normed, shown.hidden_states[-1][0].float())


def test_gradients_pass_through_the_head():
    states = torch.randn(2, 32, requires_grad=True)
    check_states(tiny("gemma2"), 1).head(states).sum().backward()
    assert states.grad.abs().max() > 0


def test_a_head_with_something_else_behind_it_is_not_given(monkeypatch):
    model = tiny("llama")
    forward = type(model).forward

    def squared(self, *args, **kwargs):
        shown = forward(self, *args, **kwargs)
        shown.logits = shown.logits.square()
        return shown

    monkeypatch.setattr(type(model), "forward", squared)
    assert check_states(model, 1)[:2] == (None, None)


def test_a_model_without_a_final_norm_gives_none():
    model = tiny("llama")
    model.model.norm = torch.nn.Identity()
    norm = check_states(model, 1).norm
    assert norm is not None, "the identity is a norm too"
    model.model.forward = _scaled(model.model.forward)
    assert check_states(model, 1).norm is None


def _scaled(forward):
    def changed(*args, **kwargs):
        shown = forward(*args, **kwargs)
        shown.last_hidden_state = 2 * shown.last_hidden_state
        shown.hidden_states = (*shown.hidden_states[:-1], shown.last_hidden_state)
        return shown

    return changed
