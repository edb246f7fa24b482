import math
from dataclasses import replace

import pytest
import torch
from transformers.generation.utils import GenerateDecoderOnlyOutput

from backends.transformers.calls import ENDS, FAST, LONG, SHORT, STRONG, sample
from esamp import Decoding, ESamp, Vanilla
from esamp.backends.transformers.output import Trace
from esamp.sampling import NEG_INF, top_k
from tiny import batch, tiny

EXTRAS = ("scores", "logits", "hidden_states", "attentions")
TRUNCATED = {"top_k": 20, "temperature": 0.8}


def shapes(value):
    return value.shape if isinstance(value, torch.Tensor) else tuple(map(shapes, value))


@pytest.mark.parametrize("extra", EXTRAS)
def test_extras_have_the_shapes_of_stock(extra):
    model = tiny("llama", attn_implementation="eager")
    options = {"do_sample": True, "max_new_tokens": 4, f"output_{extra}": True, "use_cache": True}
    stock = model.generate(**batch(SHORT, LONG), return_dict_in_generate=True, **options)
    output = sample(model, SHORT, LONG, samples=1, **options)
    assert shapes(output[extra]) == shapes(stock[extra])
    assert [getattr(output, other) for other in EXTRAS if other != extra] == [None] * 3


@pytest.mark.parametrize("extra", EXTRAS)
def test_greedy_extras_are_stocks(extra):
    model = tiny("llama", attn_implementation="eager")
    options = {"do_sample": False, "max_new_tokens": 6, f"output_{extra}": True}
    options |= {"return_dict_in_generate": True, "eos_token_id": ENDS}
    stock = model.generate(**batch(SHORT, LONG), **options)
    vanilla = Decoding(method=Vanilla(), drop_finished=False)
    output = model.generate(**batch(SHORT, LONG), custom_generate=vanilla, **options)
    torch.testing.assert_close(output[extra], stock[extra], atol=0, rtol=0)


def test_extras_keep_all_rows_when_finished_ones_have_left():
    output = sample(
        tiny("llama"), SHORT, LONG, tokens=20, eos_token_id=ENDS, output_scores=True,
        output_logits=True,
    )  # fmt: skip
    steps = output.logprobs.shape[1]
    assert shapes(output.scores) == shapes(output.logits) == ((8, 97),) * steps


def test_states_are_asked_for_of_the_whole_batch():
    output = sample(
        tiny("llama"), SHORT, LONG, tokens=20, eos_token_id=ENDS, output_hidden_states=True
    )
    assert {len(step[-1]) for step in output.hidden_states} == {8}


def test_without_a_dict_the_sequences_alone_come_back():
    model = tiny("llama")
    options = {"do_sample": True, "top_k": 0, "num_return_sequences": 4, "max_new_tokens": 10}
    sequences = model.generate(
        **batch(SHORT), custom_generate=Decoding(method=STRONG), esamp_seed=7, **options
    )
    assert torch.equal(sequences, sample(model, SHORT).sequences)


def test_the_output_is_transformers_own_with_more_in_it():
    output = sample(tiny("llama"), SHORT)
    assert isinstance(output, GenerateDecoderOnlyOutput)
    assert output["sequences"] is output.sequences
    assert output.lengths.tolist() == [10] * 4
    assert output.logprobs.shape == output.novelty.shape == (4, 10)
    assert output.distiller_error.shape == (9,)


def test_vanilla_has_no_novelty():
    output = sample(tiny("llama"), SHORT, method=Vanilla())
    assert output.novelty is output.distiller_error is None


def test_distiller_error_is_the_mean_squared_novelty_of_each_steered_step():
    output = sample(tiny("llama"), SHORT, LONG, eos_token_id=ENDS)
    expected = [column[~column.isnan()].square().mean() for column in output.novelty[:, 1:].T]
    torch.testing.assert_close(output.distiller_error, torch.stack(expected))


@pytest.mark.parametrize("options", [{}, TRUNCATED], ids=str)
@pytest.mark.parametrize("method", [Vanilla(), STRONG, ESamp(distiller=FAST, truncation="fused")])
def test_logprobs_are_those_of_the_scores(method, options):
    output = sample(tiny("llama"), SHORT, LONG, method=method, output_scores=True, **options)
    tokens = output.sequences[:, -10:]
    for step, scores in enumerate(output.scores):
        probabilities = scores.softmax(dim=-1).gather(1, tokens[:, step, None])[:, 0]
        torch.testing.assert_close(output.logprobs[:, step].exp(), probabilities)


def kl(sampled, reference):
    return sum(p * (math.log(p) - q) for p, q in zip(sampled, reference, strict=True) if p > 0)


def entropy(probabilities):
    return -sum(p * math.log(p) for p in probabilities if p > 0)


@pytest.mark.parametrize("options", [{"temperature": 0.8}, TRUNCATED], ids=str)
@pytest.mark.parametrize("truncation", ["reference", "fused"])
def test_diagnostics_are_what_a_hand_computes(truncation, options):
    output = sample(
        tiny("llama"),
        SHORT,
        LONG,
        method=replace(STRONG, truncation=truncation),
        tokens=14,
        eos_token_id=ENDS,
        diagnostics=True,
        output_scores=True,
        output_logits=True,
        **options,
    )
    # Survivors of the fused logits need not survive on the reference: there it is not truncated.
    kept = options.get("top_k", 0) if truncation == "reference" else 0
    tokens = output.sequences[:, -output.logprobs.shape[1] :]
    for step, (scores, logits) in enumerate(zip(output.scores, output.logits, strict=True)):
        reference = top_k(logits / 0.8, kept)
        for row in range(8):
            if step >= output.lengths[row]:
                assert output.kl[row, step].isnan()
                continue
            sampled = scores[row].double().softmax(dim=-1).tolist()
            plain = reference[row].double().log_softmax(dim=-1)
            close = pytest.approx
            assert output.kl[row, step] == close(kl(sampled, plain.tolist()), abs=1e-4)
            assert output.entropy[row, step] == close(entropy(sampled), abs=1e-4)
            assert output.reference_entropy[row, step] == close(
                entropy(plain.exp().tolist()), abs=1e-4
            )
            assert output.reference_logprobs[row, step] == close(
                plain[tokens[row, step]].item(), abs=1e-4
            )


@pytest.mark.parametrize("options", [{}, TRUNCATED], ids=str)
@pytest.mark.parametrize("method", [Vanilla(), STRONG, ESamp(distiller=FAST, truncation="fused")])
def test_diagnostics_change_no_token_and_are_none_unless_asked_for(method, options):
    model = tiny("llama")
    without = sample(model, SHORT, LONG, method=method, **options)
    asked = sample(model, SHORT, LONG, method=method, diagnostics=True, **options)
    assert torch.equal(asked.sequences, without.sequences)
    for name in ("reference_logprobs", "kl", "entropy", "reference_entropy"):
        assert getattr(without, name) is None
        assert getattr(asked, name).shape == (8, 10)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (STRONG, {}),
        (STRONG, TRUNCATED),
        (STRONG, {"min_new_tokens": 5, "eos_token_id": ENDS}),
        (Vanilla(), {"temperature": 0.8}),
        (Vanilla(), TRUNCATED),
        (Vanilla(), {"min_new_tokens": 5, "eos_token_id": ENDS}),
    ],
)
def test_what_is_not_steered_does_not_diverge(method, options):
    betas = {} if isinstance(method, Vanilla) else {"esamp_beta": 0.0}
    output = sample(tiny("llama"), SHORT, LONG, method=method, diagnostics=True, **betas, **options)
    assert output.kl.nan_to_num().abs().max() < 1e-6
    torch.testing.assert_close(output.reference_logprobs, output.logprobs, equal_nan=True)


def test_what_is_steered_diverges():
    output = sample(tiny("llama"), SHORT, LONG, diagnostics=True, **TRUNCATED)
    assert output.kl[:, 0].abs().max() < 1e-6
    assert output.kl[:, 1:].mean() > 0.1


def test_a_row_that_has_left_is_nan_in_the_trace():
    trace = Trace(rows=3)
    trace.add("it", torch.tensor([1.0, 2.0, 3.0]), active=None)
    trace.add("it", torch.tensor([4.0, 5.0]), active=torch.tensor([0, 2]))
    expected = torch.tensor([[1.0, 4.0], [2.0, torch.nan], [3.0, 5.0]])
    torch.testing.assert_close(trace.table("it"), expected, equal_nan=True)
    assert trace.table("nothing") is None


def test_truncated_tokens_have_no_probability():
    output = sample(tiny("llama"), SHORT, LONG, output_scores=True, **TRUNCATED)
    assert all((scores > NEG_INF).sum(dim=-1).eq(20).all() for scores in output.scores)
