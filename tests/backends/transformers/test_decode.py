"""Decoding as a whole: what is plain stays plain, what is asked for is honoured."""

import os
import subprocess
import sys
import threading
import warnings
from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    LogitsProcessor,
    TextIteratorStreamer,
)
from transformers.generation.stopping_criteria import StoppingCriteria

import esamp
from backends.transformers.calls import (
    ENDS,
    FAST,
    LONG,
    SHORT,
    STRONG,
    drawn,
    sample,
)
from esamp import Decoding, ESamp, InertWarning, MLPDistiller, ModelError, UsageError, Vanilla
from esamp.backends.transformers import decode
from esamp.recursive import RecursiveBank
from tiny import FAMILIES, PAD, batch, tiny, tiny_tokenizer

TRUNCATED = {"top_k": 30, "top_p": 0.9, "temperature": 0.8}
PENALISED = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "bad_words_ids": [[40]]}
SETTINGS = [{}, TRUNCATED, PENALISED, TRUNCATED | PENALISED, {"eos_token_id": ENDS}]


def assert_same(output, expected):
    assert torch.equal(output.sequences, expected.sequences)
    assert torch.equal(output.logprobs.nan_to_num(), expected.logprobs.nan_to_num())


# --- plain sampling -----------------------------------------------------------------------------


@pytest.mark.parametrize("options", SETTINGS, ids=str)
@pytest.mark.parametrize("truncation", ["reference", "fused"])
def test_beta_zero_is_plain_sampling_bit_for_bit(truncation, options):
    model, method = tiny("llama"), replace(STRONG, truncation=truncation)
    plain = sample(model, SHORT, LONG, method=Vanilla(), **options)
    opted_out = sample(model, SHORT, LONG, method=method, esamp_beta=0.0, **options)
    assert_same(opted_out, plain)
    with pytest.warns(InertWarning):
        off = sample(model, SHORT, LONG, method=replace(method, beta=0.0), **options)
    assert_same(off, plain)
    steered = sample(model, SHORT, LONG, method=method, **options)
    assert not torch.equal(steered.logprobs.nan_to_num(), plain.logprobs.nan_to_num())


@pytest.mark.parametrize("family", FAMILIES)
def test_beta_zero_is_plain_sampling_in_every_family_and_in_bf16(family):
    model = tiny(family).bfloat16()
    options = {"top_k": 30, "eos_token_id": ENDS}
    plain = sample(model, SHORT, LONG, method=Vanilla(), **options)
    assert_same(sample(model, SHORT, LONG, esamp_beta=0.0, **options), plain)


@pytest.mark.parametrize("options", [{}, PENALISED, {"eos_token_id": ENDS}], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_stocks_greedy(family, options):
    model = tiny(family)
    greedy = {"do_sample": False, "max_new_tokens": 12} | options
    stock = model.generate(**batch(SHORT, LONG), **greedy)
    for method in (Vanilla(), STRONG):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InertWarning)
            output = model.generate(
                **batch(SHORT, LONG), custom_generate=Decoding(method=method), **greedy
            )
        assert torch.equal(output, stock)


def test_plain_sampling_follows_the_models_distribution():
    model, count = tiny("llama"), 4000
    tokens = torch.tensor(
        drawn(sample(model, SHORT, method=Vanilla(), samples=count, tokens=2, temperature=0.7))
    )
    assert_follows(model, SHORT, tokens[:, 0])
    first = int(tokens[:, 0].mode().values)
    assert_follows(model, [*SHORT, first], tokens[tokens[:, 0] == first, 1])


def assert_follows(model, prompt, tokens):
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1].double()
    expected = (logits / 0.7).softmax(dim=-1) * len(tokens)
    observed = torch.bincount(tokens, minlength=len(expected)).double()
    often = expected >= 5  # the test wants five or more per bin: rare tokens share one
    assert often.sum() > 10
    rare = [(~often * counts).sum() for counts in (observed, expected)]
    test = chisquare([*observed[often], rare[0]], [*expected[often], rare[1]])
    assert test.pvalue > 0.001


# --- what is inert says so ----------------------------------------------------------------------


def test_an_inert_call_says_so():
    model = tiny("llama")
    with pytest.warns(InertWarning, match="beta is 0"):
        sample(model, SHORT, method=ESamp(beta=0.0))
    with pytest.warns(InertWarning, match="do_sample=False"):
        sample(model, SHORT, samples=1, do_sample=False)


def test_a_call_that_steers_or_was_told_not_to_says_nothing():
    model = tiny("llama")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample(model, SHORT)
        sample(model, SHORT, LONG, method=ESamp(beta=0.0), esamp_beta=[0.0, 0.5])
        sample(model, SHORT, esamp_beta=0.0)
        sample(model, SHORT, method=Vanilla())


INERT_SCRIPT = """\
from esamp import Decoding
from tiny import batch, tiny
greedy = {"do_sample": False, "max_new_tokens": 1}
tiny("llama").generate(**batch([11, 12]), custom_generate=Decoding(), **greedy)
"""


def test_the_warning_points_at_the_call(tmp_path):
    # A process of its own: the type checks of this one put frames in between.
    script = tmp_path / "script.py"
    script.write_text(INERT_SCRIPT)
    ran = subprocess.run(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{script}:4: InertWarning" in ran.stderr


# --- rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, TRUNCATED, {"logits_to_keep": 0}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_beta_is_per_prompt_and_an_opted_out_prompt_is_plain(dtype, options):
    model = tiny("llama").to(dtype)
    plain = sample(model, SHORT, LONG, method=Vanilla(), **options)
    mixed = sample(model, SHORT, LONG, esamp_beta=[0.0, 0.7], **options)
    steered = sample(model, SHORT, LONG, method=STRONG, **options)
    assert torch.equal(mixed.sequences[:4], plain.sequences[:4])
    assert torch.equal(mixed.logprobs[:4], plain.logprobs[:4])
    assert torch.equal(mixed.sequences[4:], steered.sequences[4:])
    assert not torch.equal(mixed.logprobs[4:], plain.logprobs[4:])


def test_a_call_may_steer_with_a_method_that_is_off():
    model, off = tiny("llama"), replace(STRONG, beta=0.0)
    assert_same(sample(model, SHORT, method=off, esamp_beta=0.7), sample(model, SHORT))


@pytest.mark.parametrize("options", [{}, TRUNCATED], ids=str)
def test_a_prompts_samples_do_not_depend_on_its_neighbours(options):
    model, other = tiny("llama"), [31, 32, 33, 34]
    options = {"eos_token_id": ENDS, "tokens": 14} | options
    alone = drawn(sample(model, SHORT, **options))
    assert drawn(sample(model, SHORT, LONG, **options))[:4] == alone
    assert drawn(sample(model, LONG, other, SHORT, **options))[8:] == alone


def test_prompts_given_several_times_are_the_samples_of_one():
    model = tiny("llama")
    cloned = sample(model, SHORT, LONG, SHORT, SHORT, samples=1)
    expected = drawn(sample(model, SHORT, samples=3)) + drawn(sample(model, LONG, samples=1))
    assert [drawn(cloned)[row] for row in (0, 2, 3, 1)] == expected


class EndAtOnce(LogitsProcessor):
    """End some rows with their first token."""

    def __init__(self, rows):
        self.rows = rows
        self.steps = 0

    def __call__(self, input_ids, scores):
        self.steps += 1
        if self.steps == 1:
            scores = scores.clone()
            scores[self.rows] = float("-inf")
            scores[self.rows, ENDS[0]] = 0.0
        return scores


@pytest.mark.parametrize("drop_finished", [True, False])
def test_finished_rows_do_not_teach(drop_finished):
    model = tiny("llama")
    output = model.generate(
        **batch(SHORT),
        custom_generate=Decoding(method=STRONG, drop_finished=drop_finished),
        logits_processor=[EndAtOnce([3, 4, 5])],
        eos_token_id=ENDS[0],
        num_return_sequences=6,
        max_new_tokens=10,
        do_sample=True,
        top_k=0,
        esamp_seed=7,
        return_dict_in_generate=True,
    )
    alone = sample(model, SHORT, samples=3, eos_token_id=ENDS[0])
    assert output.lengths[3:].tolist() == [1, 1, 1]
    assert drawn(output)[:3] == drawn(alone)
    torch.testing.assert_close(output.novelty[:3], alone.novelty, atol=1e-4, rtol=0, equal_nan=True)


def test_unfinished_rows_all_teach():
    model = tiny("llama")
    three, four = sample(model, SHORT, samples=3), sample(model, SHORT, samples=4)
    assert not torch.allclose(three.novelty[:, 2:], four.novelty[:3, 2:], atol=1e-3)


# --- learning that ends -------------------------------------------------------------------------


def test_after_the_tokens_that_are_learnt_from_no_step_learns(monkeypatch):
    steps, learn = [], RecursiveBank.learn
    monkeypatch.setattr(RecursiveBank, "learn", lambda *of: (steps.append(1), learn(*of)))
    model = tiny("llama")
    ended = sample(model, LONG, LONG, method=replace(STRONG, learn_tokens=3), samples=8)
    assert len(steps) == 4, "the first step, of which nothing is learnt, and three"
    whole = sample(model, LONG, LONG, samples=8)
    assert len(steps) == 4 + 10
    alike = (ended.sequences == whole.sequences).all(dim=0).tolist()
    assert all(alike[: len(LONG) + 5]), "what the fourth token taught steers the sixth"
    assert not all(alike)


# --- seeds --------------------------------------------------------------------------------------


def test_a_seeded_call_repeats_and_starts_fresh():
    model = tiny("llama")
    first = sample(model, SHORT, LONG, seed=5)
    sample(model, LONG, samples=7, seed=6)
    assert_same(sample(model, SHORT, LONG, seed=5), first)
    assert not torch.equal(sample(model, SHORT, LONG, seed=6).sequences, first.sequences)


def test_a_seeded_call_leaves_the_global_generator_alone():
    model, state = tiny("llama"), torch.get_rng_state()
    for method in (STRONG, ESamp.paper(), Vanilla()):
        sample(model, SHORT, method=method, seed=5)
    assert torch.equal(torch.get_rng_state(), state)


def test_without_a_seed_a_call_takes_one_number_from_the_global_generator():
    model = tiny("llama")
    torch.manual_seed(1)
    first = sample(model, SHORT, seed=None)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert_same(sample(model, SHORT, seed=None), first)
    torch.manual_seed(1)
    torch.randint(2**63 - 1, ())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_samples_of_a_prompt_differ():
    assert len(set(map(tuple, drawn(sample(tiny("llama"), SHORT, samples=16))))) == 16


# --- ends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop", [True, False])
def test_a_row_ends_with_its_end_token_and_is_padded_after_it(drop):
    options = {"eos_token_id": ENDS, "samples": 8, "tokens": 20}
    if not drop:
        options["cache_implementation"] = "static"
    output = sample(tiny("llama"), SHORT, LONG, **options)
    new = output.sequences[:, -output.logprobs.shape[1] :]
    for row, length in zip(new.tolist(), output.lengths.tolist(), strict=True):
        assert not set(row[: length - 1]) & set(ENDS)
        assert row[length - 1] in ENDS or length == 20
        assert set(row[length:]) <= {PAD}
    assert output.logprobs.isnan().sum() == (new.shape[1] - output.lengths).sum()


def test_the_call_ends_with_its_last_row():
    output = sample(tiny("llama"), SHORT, eos_token_id=ENDS, tokens=200)
    assert output.logprobs.shape[1] == output.lengths.max() < 200


class StopAt(StoppingCriteria):
    """A user's own criterion; it keeps what it is given."""

    def __init__(self, token):
        self.token = token
        self.seen = []

    def __call__(self, input_ids, scores, **kwargs):
        self.seen.append(input_ids)
        return input_ids[:, -1] == self.token


def test_a_users_stopping_criterion_is_honoured_and_sees_all_rows():
    model = tiny("llama")
    token = drawn(sample(model, SHORT, LONG))[2][3]
    stop = StopAt(token)
    output = sample(model, SHORT, LONG, stopping_criteria=[stop])
    assert drawn(output)[2][-1] == token
    assert output.lengths[2] <= 4
    assert all(token not in row[:-1] for row in drawn(output))
    assert [len(ids) for ids in stop.seen] == [8] * output.logprobs.shape[1]


def test_max_length_and_max_new_tokens_are_honoured():
    model = tiny("llama")
    assert sample(model, SHORT, LONG, tokens=3).lengths.tolist() == [3] * 8
    by_length = sample(model, SHORT, LONG, tokens=None, max_length=10)
    assert by_length.sequences.shape == (8, 10)


def test_a_batch_of_one_row_and_one_token_works():
    output = sample(tiny("llama"), [11], samples=1, tokens=1)
    assert output.sequences.shape == (1, 2)


# --- not finite ---------------------------------------------------------------------------------


def break_shallow(model, row):
    """Show NaN after the first block in one row; the model itself goes on with its own state."""
    kept = {}

    def spoil(_module, _args, output):
        if len(output) == 1:
            return None
        kept["state"] = output
        spoilt = output.clone()
        spoilt[row] = torch.nan
        return spoilt

    def restore(_module, args, kwargs):
        return ((kept.pop("state"), *args[1:]), kwargs) if kept else None

    first, second = model.model.layers[:2]
    first.register_forward_hook(spoil)
    second.register_forward_pre_hook(restore, with_kwargs=True)


@pytest.mark.parametrize("options", [{}, TRUNCATED], ids=str)
@pytest.mark.parametrize("method", [STRONG, ESamp(distiller=MLPDistiller(width=16))])
def test_a_row_whose_shallow_state_is_not_finite_is_sampled_plainly(method, options):
    # One group per prompt: the broken row may not poison its neighbour's distiller either.
    options = {"samples": 2, "method": method} | options
    plain = sample(tiny("llama"), SHORT, LONG, **options | {"method": Vanilla()})
    model = tiny("llama")
    break_shallow(model, row=1)
    output = sample(model, SHORT, LONG, **options)
    assert torch.equal(output.sequences[1], plain.sequences[1])
    assert output.novelty[1].isnan().all()
    assert int(output.nonfinite_rows) == 9
    assert output.nonfinite.tolist() == [False] * 4
    others = output.novelty[[0, 2, 3], 1:]
    assert others.isfinite().all()
    untouched = sample(tiny("llama"), SHORT, LONG, **options)
    assert torch.equal(output.sequences[2:], untouched.sequences[2:])


def break_logits(model, row, step):
    """Make one row's logits NaN from some step on."""
    steps = iter(range(-1, 1000))  # the first pass is the check

    def spoil(_module, _args, output):
        if next(steps) == step:
            output = output.clone()
            output[row] = torch.nan
            return output
        return None

    model.lm_head.register_forward_hook(spoil)


@pytest.mark.parametrize("options", [{}, TRUNCATED, {"do_sample": False, "samples": 1}], ids=str)
@pytest.mark.parametrize("step", [0, 3])
def test_a_row_whose_logits_are_not_finite_ends_there(step, options):
    options = {"method": Vanilla()} | options
    model = tiny("llama")
    expected = sample(model, SHORT, LONG, **options)
    break_logits(model, row=1, step=step)
    output = sample(model, SHORT, LONG, **options)
    rows = len(expected.sequences)
    assert output.nonfinite.tolist() == [row == 1 for row in range(rows)]
    assert output.lengths.tolist() == [step if row == 1 else 10 for row in range(rows)]
    assert int(output.nonfinite_rows) == 1
    assert drawn(output)[1] == drawn(expected)[1][:step]
    assert [drawn(output)[row] for row in range(rows) if row != 1] == [
        drawn(expected)[row] for row in range(rows) if row != 1
    ]
    assert torch.equal(output.logprobs[1].isfinite().sum(), torch.tensor(step))


def test_a_call_in_which_every_row_breaks_ends():
    model = tiny("llama")
    break_logits(model, row=slice(None), step=2)
    output = sample(model, SHORT)
    assert output.lengths.tolist() == [2] * 4
    assert output.nonfinite.all()


def test_a_push_beyond_float16_leaves_the_row_plain():
    model = tiny("llama").half()
    plain = sample(model, SHORT, method=Vanilla())
    output = sample(model, SHORT, method=ESamp(beta=1e6, distiller=FAST))
    assert not output.nonfinite.any()
    assert torch.equal(output.sequences, plain.sequences)
    assert int(output.nonfinite_rows) == 4 * 9


# --- streaming ----------------------------------------------------------------------------------


def through_esamp(model, inputs, streamer, **kwargs):
    esamp.generate(model, **inputs, streamer=streamer, seed=7, **kwargs)


def through_transformers(model, inputs, streamer, **kwargs):
    model.generate(
        **inputs,
        custom_generate=Decoding(),
        do_sample=True,
        streamer=streamer,
        esamp_seed=7,
        **kwargs,
    )


@pytest.mark.parametrize("call", [through_esamp, through_transformers])
def test_a_streamer_gets_all_tokens_and_ends(call):
    model, tokenizer = tiny("llama"), tiny_tokenizer()
    inputs = dict(tokenizer("tell me", return_tensors="pt"))
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=20)
    call_it = threading.Thread(
        target=call, args=(model, inputs, streamer), kwargs={"max_new_tokens": 30}, daemon=True
    )
    call_it.start()
    text = "".join(streamer)
    call_it.join(timeout=20)
    assert not call_it.is_alive()
    output = esamp.generate(model, **inputs, seed=7, max_new_tokens=30)
    assert text == tokenizer.decode(drawn(output)[0])
    assert len(text) >= 30


class OutOfLuck(LogitsProcessor):
    def __call__(self, input_ids, scores):
        raise RuntimeError("out of luck")


@pytest.mark.parametrize("call", [through_esamp, through_transformers])
@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"prompt_lookup_num_tokens": 2}, UsageError),
        ({"esamp_beta": -1.0}, UsageError),
        ({"logits_processor": [OutOfLuck()]}, RuntimeError),
    ],
    ids=["refused", "wrong beta", "midway"],
)
def test_a_streamer_is_ended_when_decoding_fails(call, wrong, error):
    model, tokenizer = tiny("llama"), tiny_tokenizer()
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=5)
    inputs = dict(tokenizer("tell me", return_tensors="pt"))
    with pytest.raises(error):
        call(model, inputs, streamer, max_new_tokens=5, **wrong)
    assert "".join(streamer) == ""


# --- refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2}, "num_beams is 2"),
        ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens is 3"),
        ({"esamp_beta": float("nan")}, "beta is nan"),
        ({"esamp_beta": -1.0}, "beta is -1.0"),
        ({"esamp_beta": [0.1, 0.2, 0.3]}, "esamp_beta has 3 values for 2 prompts"),
        ({"esamp_beta": torch.tensor([0.1, 0.2, 0.3])}, "esamp_beta has 3 values for 2 prompts"),
        ({"seed": -1}, "esamp_seed is -1"),
        ({"seed": 2**63}, f"esamp_seed is {2**63}"),
    ],
    ids=str,
)
def test_what_cannot_be_honoured_is_refused_by_name(options, message):
    samples = 1 if "prompt_lookup_num_tokens" in options else 2
    with pytest.raises(UsageError, match=message):
        sample(tiny("llama"), SHORT, LONG, samples=samples, **options)


@pytest.mark.parametrize("options", [{"dola_layers": "low"}, {"penalty_alpha": 0.6, "top_k": 4}])
def test_other_ways_of_decoding_are_refused_by_name(options):
    greedy = {"do_sample": False, "samples": 1, "method": Vanilla()}
    with pytest.raises(UsageError, match=next(iter(options))):
        sample(tiny("llama"), SHORT, **greedy | options)


def test_a_draft_model_is_refused():
    model = tiny("llama")
    with pytest.raises(UsageError, match="assistant_model was given"):
        sample(model, SHORT, samples=1, assistant_model=model)


def test_a_generation_config_says_more_than_our_defaults():
    model, config = tiny("llama"), GenerationConfig(do_sample=False, max_new_tokens=5)
    inputs = batch(SHORT)
    with pytest.warns(InertWarning, match="do_sample=False"):
        greedy = esamp.generate(model, **inputs, generation_config=config)
    assert torch.equal(
        greedy.sequences, model.generate(**inputs, do_sample=False, max_new_tokens=5)
    )
    config = GenerationConfig(stop_strings=["a", "e", "i"], max_new_tokens=50)
    output = esamp.generate(
        model, **inputs, generation_config=config, tokenizer=tiny_tokenizer(), seed=1
    )
    assert output.lengths.max() < 50
    assert config.stop_strings == ["a", "e", "i"]
    assert config.do_sample is None


@pytest.mark.usefixtures("unchecked")
def test_a_seed_that_is_no_whole_number_is_refused_by_name():
    with pytest.raises(UsageError, match=r"esamp_seed is 1\.5"):
        sample(tiny("llama"), SHORT, seed=1.5)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_model_sharded_over_processes_is_refused(monkeypatch, processes):
    """The others would wait for the rows of this one; with one process there are no others."""
    monkeypatch.setattr(decode, "is_fsdp_managed_module", lambda model: True)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: processes)
    model = tiny("llama")
    if processes == 1:
        decode.check_config(model, model.generation_config)
    else:
        with pytest.raises(UsageError, match="sharded over processes"):
            decode.check_config(model, model.generation_config)


def test_stop_strings_are_honoured_beside_a_users_own_criteria():
    model, tokenizer = tiny("llama"), tiny_tokenizer()
    stops = {token for token in range(97) if set(tokenizer.decode(token)) & set("aei")}
    free = drawn(sample(model, SHORT, samples=8, tokens=50))
    own = next(row[0] for row in free if row[0] not in stops)
    output = sample(
        model,
        SHORT,
        samples=8,
        tokens=50,
        stop_strings=["a", "e", "i"],
        tokenizer=tokenizer,
        stopping_criteria=[StopAt(own)],
    )
    ends = {row[-1] for row in drawn(output) if len(row) < 50}
    assert ends <= stops | {own}
    assert own in ends
    assert ends & stops
    assert not any(set(row[:-1]) & (stops | {own}) for row in drawn(output))


def test_an_encoder_decoder_model_is_refused():
    config = AutoConfig.for_model(
        "t5", vocab_size=97, d_model=32, d_ff=64, d_kv=8, num_layers=2, num_heads=4
    )
    config.decoder_start_token_id = 0
    model = AutoModelForSeq2SeqLM.from_config(config).eval()
    with pytest.raises(ModelError, match="T5ForConditionalGeneration is an encoder-decoder"):
        sample(model, SHORT)


# --- surroundings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "mode"),
    [
        (STRONG, torch.enable_grad),
        (STRONG, torch.inference_mode),
        (ESamp.paper(), torch.enable_grad),
        (ESamp.paper(), torch.inference_mode),
    ],
)
def test_it_does_not_matter_which_gradient_mode_the_caller_is_in(mode, method):
    model = tiny("llama")
    expected = sample(model, SHORT, method=method)
    with mode():
        assert torch.equal(sample(model, SHORT, method=method).sequences, expected.sequences)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_calls_in_several_threads_do_not_see_each_other():
    model = tiny("llama")
    expected, expected_inner = sample(model, SHORT, seed=1), sample(model, LONG, seed=2)
    inner = []

    def call_in_the_midst(_module, args):
        if len(args[0]) == 1:  # the check, not the call
            return
        handle.remove()
        call = threading.Thread(target=lambda: inner.append(sample(model, LONG, seed=2)))
        call.start()
        call.join(timeout=60)

    handle = model.model.layers[1].register_forward_pre_hook(call_in_the_midst)
    outer = sample(model, SHORT, seed=1)
    assert_same(outer, expected)
    assert_same(inner[0], expected_inner)
