"""Whatever `generate` was asked for is applied once, to the reference logits or the fused ones."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from backends.transformers.calls import (
    ENDS,
    FAST,
    KEEPING,
    LONG,
    SHORT,
    STRONG,
    decode,
    drawn,
    sample,
)
from esamp import ESamp, Vanilla
from esamp.backends.transformers import scores as module
from esamp.method import Push, Steering
from tiny import batch, tiny

FUSED = ESamp(beta=0.7, distiller=FAST, truncation="fused")
OPTIONS = [
    {},
    {"temperature": 0.6},
    {"top_k": 5},
    {"top_p": 0.7},
    {"min_p": 0.1},
    {"typical_p": 0.7},
    {"epsilon_cutoff": 0.01},
    {"repetition_penalty": 1.5},
    {"no_repeat_ngram_size": 1},
    {"bad_words_ids": [[40], [41]]},
    {"suppress_tokens": [40, 41, 42]},
    {"sequence_bias": [[[40], 3.0]]},
    {"min_new_tokens": 3, "eos_token_id": ENDS},
    {"temperature": 0.6, "top_k": 30, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2},
    {"guidance_scale": 1.5},
    {"renormalize_logits": True, "top_k": 5},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("method", [Vanilla(), STRONG, FUSED], ids=["plain", "reference", "fused"])
def test_first_scores_are_stocks(method, options):
    model = tiny("llama")
    once = {"max_new_tokens": 4, "do_sample": True, "output_scores": True, "top_k": 0} | options
    stock = model.generate(**batch(SHORT, LONG), return_dict_in_generate=True, **once)
    output = sample(model, SHORT, LONG, method=method, samples=1, **once)
    assert torch.equal(output.scores[0], stock.scores[0])


FORBIDDEN = {40, 41, 42, 43, 44, 45}


@pytest.mark.parametrize(
    "options",
    [
        {"bad_words_ids": [[token] for token in FORBIDDEN]},
        {"suppress_tokens": list(FORBIDDEN)},
        {"prefix_allowed_tokens_fn": lambda _row, _ids: sorted(set(range(97)) - FORBIDDEN)},
    ],
    ids=lambda options: next(iter(options)),
)
@pytest.mark.parametrize("method", [STRONG, FUSED], ids=["reference", "fused"])
def test_what_is_forbidden_is_not_drawn_by_steering_either(method, options):
    def tokens(**kwargs):
        output = sample(tiny("llama"), SHORT, LONG, method=method, samples=16, tokens=8, **kwargs)
        return {token for row in drawn(output) for token in row}

    assert tokens() & FORBIDDEN
    assert not tokens(**options) & FORBIDDEN


@pytest.mark.parametrize("method", [STRONG, FUSED], ids=["reference", "fused"])
def test_no_row_ends_before_min_new_tokens(method):
    options = {"samples": 16, "eos_token_id": ENDS}
    model = tiny("llama")
    assert sample(model, SHORT, method=method, **options).lengths.min() < 5
    assert sample(model, SHORT, method=method, min_new_tokens=5, **options).lengths.min() >= 5


class Noting(LogitsProcessor):
    """A user's own processor, which keeps what it is given."""

    def __init__(self):
        self.seen = []

    def __call__(self, input_ids, scores):
        self.seen.append((input_ids, scores))
        return scores


def test_a_users_processor_sees_all_rows_and_the_reference_once_per_step():
    noting = Noting()
    output = sample(
        tiny("llama"),
        SHORT,
        LONG,
        tokens=20,
        eos_token_id=ENDS,
        logits_processor=[noting],
        output_logits=True,
    )
    prompt = output.sequences.shape[1] - output.logprobs.shape[1]
    assert len(noting.seen) == output.logprobs.shape[1]
    for step, (input_ids, scores) in enumerate(noting.seen):
        assert torch.equal(input_ids, output.sequences[:, : prompt + step])
        assert torch.equal(scores, output.logits[step])


def test_a_processor_may_write_into_what_it_is_given():
    def favour(scores):
        scores[:, 7] += 4.0
        return scores

    class InPlace(LogitsProcessor):
        def __call__(self, input_ids, scores):
            return favour(scores)

    class OnACopy(LogitsProcessor):
        def __call__(self, input_ids, scores):
            return favour(scores.clone())

    first, second = (
        sample(tiny("llama"), SHORT, method=STRONG, logits_processor=[each], top_k=0)
        for each in (InPlace(), OnACopy())
    )
    assert torch.equal(first.sequences, second.sequences)
    assert torch.equal(first.logprobs, second.logprobs)


def test_in_the_fused_reading_a_users_processor_sees_the_fused_logits():
    noting = Noting()
    output = sample(
        tiny("llama"),
        SHORT,
        LONG,
        method=FUSED,
        logits_processor=[noting],
        output_logits=True,
        output_scores=True,
    )
    assert torch.equal(noting.seen[0][1], output.logits[0]), "first tokens are not steered"
    for step, (_, scores) in enumerate(noting.seen[1:], start=1):
        assert torch.equal(scores, output.scores[step])
        assert (scores - output.logits[step]).abs().max() > 0.1


def test_a_processor_that_runs_the_model_itself_is_not_steered():
    """Classifier-free guidance makes a forward pass of its own, with a cache of its own."""
    model, options = tiny("llama"), {"guidance_scale": 1.5, "eos_token_id": ENDS}
    plain = sample(model, SHORT, LONG, method=Vanilla(), **options)
    opted_out = sample(model, SHORT, LONG, esamp_beta=0.0, **options)
    assert torch.equal(opted_out.sequences, plain.sequences)
    kept = decode(KEEPING, model, SHORT, LONG, **options)
    assert torch.equal(sample(model, SHORT, LONG, **options).sequences, kept.sequences)


@dataclass(frozen=True, kw_only=True)
class Insisting(Vanilla):
    """A method of someone else's that works on logits: only token 42 is left."""

    inert: bool = False
    needs_reference: bool = True
    pushes: bool
    references: list[Tensor | None] = field(default_factory=list)

    def start(self, call):
        method = self

        class Insist(Steering):
            def steer(self, step):
                return Push(step.deep, None) if method.pushes else None

            def reweight(self, step, logits, reference):
                method.references.append(reference)
                return torch.full_like(logits, -30.0).index_fill_(1, torch.tensor([42]), 30.0)

        return Insist()


@pytest.mark.parametrize(
    ("pushes", "options"),
    [
        (False, {}),
        (True, {}),
        (False, {"top_k": 50}),
        (True, {"top_k": 50}),
    ],
)
def test_a_method_may_reweight_logits(pushes, options):
    output = sample(tiny("llama"), SHORT, method=Insisting(pushes=pushes), tokens=3, **options)
    assert drawn(output) == [[42, 42, 42]] * 4


@pytest.mark.parametrize("pushes", [False, True])
def test_a_method_that_needs_the_reference_gets_it(pushes):
    insisting = Insisting(pushes=pushes)
    output = sample(tiny("llama"), SHORT, method=insisting, tokens=3, output_logits=True)
    assert len(insisting.references) == 3
    for reference, logits in zip(insisting.references, output.logits, strict=True):
        assert torch.equal(reference, logits)


# --- few survivors ------------------------------------------------------------------------------


def projections(model):
    """Count in a list how often the head is run."""
    head, calls = model.get_output_embeddings(), []
    forward = head.forward

    def counting(states):
        calls.append(states.shape)
        return forward(states)

    head.forward = counting
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", [{"top_k": 5}, {"top_k": 5, "top_p": 0.9, "min_p": 0.01}])
def test_few_survivors_are_fused_as_all_are_without_a_second_projection(
    monkeypatch, options, dtype
):
    few, all_of_them = tiny("llama").to(dtype), tiny("llama").to(dtype)
    counted = projections(few), projections(all_of_them)
    betas = {"esamp_beta": [0.7, 0.0]}
    output = sample(few, SHORT, LONG, output_scores=True, **options, **betas)
    monkeypatch.setattr(module, "find_most_survivors", lambda _: None)
    dense = sample(all_of_them, SHORT, LONG, output_scores=True, **options, **betas)
    steps = len(output.scores)
    # One more each: the probe at the start.
    assert [len(calls) for calls in counted] == [steps + 1, 2 * steps + 1]
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    for mine, plain in zip(output.scores, dense.scores, strict=True):
        if not torch.equal(mine.isneginf(), plain.isneginf()):
            assert dtype != torch.float32, "another rounding may draw another token"
            break
        torch.testing.assert_close(mine, plain, atol=tolerance, rtol=0)
    if dtype == torch.float32:
        assert torch.equal(output.sequences, dense.sequences)
    assert torch.equal(output.sequences[4:], dense.sequences[4:]), "β 0: the same bits"


def test_where_the_rows_to_read_are_more_than_the_head_has_it_is_read_whole():
    model = tiny("llama")
    calls = projections(model)
    output = sample(model, SHORT, LONG, top_k=30, output_scores=True)
    assert len(calls) == 2 * len(output.scores) + 1


@pytest.mark.parametrize(
    ("processors", "most"),
    [
        ([], None),
        ([TopPLogitsWarper(0.9)], None),
        ([TopKLogitsWarper(7), TopPLogitsWarper(0.9), TemperatureLogitsWarper(0.5)], 7),
        ([TopKLogitsWarper(7), TopKLogitsWarper(3)], 3),
        ([TopKLogitsWarper(7), MinPLogitsWarper(0.1), Noting()], None),
        ([Noting(), TopKLogitsWarper(7)], 7),
    ],
)
def test_how_many_survive_is_known_unless_something_may_bring_tokens_back(processors, most):
    assert module.find_most_survivors(LogitsProcessorList(processors)) == most
