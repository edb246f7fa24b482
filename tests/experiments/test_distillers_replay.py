"""The pure parts of experiments/distillers.py: what it replays is what it says."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from esamp import MeanDistiller, RecursiveDistiller
from esamp.backends.transformers.generator import TransformersGenerator
from esamp.generation import Request, Sampling
from tiny import tiny, tiny_tokenizer

sys.path.append(str(Path(__file__).parents[2] / "experiments"))

from distillers import run_arm
from distillers_arms import DEFAULT, FINALISTS, MEAN, arms, tables
from distillers_health import Case, check, long_run
from distillers_replay import (
    FIT_RIDGE,
    Arm,
    Features,
    Ridge,
    open_ridge,
    rank_correlation,
    relative_error,
    replay,
)
from distillers_report import summarise
from distillers_states import SAMPLES, Recorder, Recording, Tape

GROUPS, STEPS, ROWS, HIDDEN = 4, 6, 5, 24
SMALL = Arm(rank=8, ridge=2.0)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def states():
    """Deep depends on the input; the last sample of each group ends early."""
    shape = (GROUPS, STEPS, ROWS, HIDDEN)
    first, middle = normal(*shape), normal(*shape, seed=1)
    deep = 1 + torch.tanh(first @ normal(HIDDEN, HIDDEN, seed=2)) + 0.1 * middle
    taught = torch.ones(shape[:3], dtype=torch.bool)
    taught[:, 3:, -1] = False
    kinds = {"first": first, "embedding": middle, "middle": middle, "deep": deep}
    prefill = [{kind: normal(3 + group, HIDDEN) for kind in kinds} for group in range(GROUPS)]
    return Recording(kinds, taught, prefill)


@pytest.mark.parametrize(
    ("ours", "library"),
    [
        (SMALL, RecursiveDistiller(features=8, ridge=2.0)),
        (Arm(rank=0, ridge=3.0), MeanDistiller(ridge=3.0)),
    ],
)
def test_the_update_is_that_of_the_library(states, ours, library):
    theirs = replace(ours, distiller=library)
    torch.testing.assert_close(replay(ours, states)["error"], replay(theirs, states)["error"])


def test_a_bias_of_little_ridge_is_the_mean(states):
    small = replay(Arm(rank=0, ridge=1e-3), states)["error"]
    mean = replay(Arm(distiller=MeanDistiller()), states)["error"]
    torch.testing.assert_close(small, mean, rtol=1e-3, atol=0)


def test_a_gate_of_much_ridge_is_the_ridge_itself_and_of_little_leans_on_the_mean(states):
    def error(arm):
        return replay(arm, states)["error"]

    stiff, loose = Arm(rank=8, ridge=1e6), Arm(rank=8, ridge=1e-2)
    torch.testing.assert_close(error(replace(stiff, gate=True)), error(stiff), rtol=1e-3, atol=1e-3)
    # With 5 rows and 9 weights the plain fit is wild at step 2; the gate holds it back.
    assert (error(replace(loose, gate=True))[:, 1] < error(loose)[:, 1]).all()


def test_forgetting_is_a_weighted_ridge_regression():
    phi, deep = normal(STEPS, 1, ROWS, 7), normal(STEPS, 1, ROWS, 3, seed=1)
    ridge = Ridge(torch.zeros(1, 7, 3), torch.eye(7)[None] / 2, forget=0.9)
    gram, moment = 2 * torch.eye(7), torch.zeros(7, 3)
    for x, y in zip(phi, deep, strict=True):
        ridge.learn(x, y, torch.ones(1, ROWS, dtype=torch.bool))
        gram, moment = 0.9 * gram + x[0].mT @ x[0], 0.9 * moment + x[0].mT @ y[0]
    torch.testing.assert_close(
        ridge.weights[0], torch.linalg.solve(gram, moment), rtol=1e-3, atol=1e-5
    )


def test_drift_is_the_kalman_filter_of_wandering_weights():
    phi, deep = normal(STEPS, 1, ROWS, 7), normal(STEPS, 1, ROWS, 3, seed=1)
    first = normal(7, 3, seed=2)
    ridge = Ridge(first[None], torch.eye(7)[None] / 2, drift=0.1)
    mean, covariance = first, torch.eye(7) / 2
    for x, y in zip(phi, deep, strict=True):
        ridge.learn(x, y, torch.ones(1, ROWS, dtype=torch.bool))
        mean = first + 0.9**0.5 * (mean - first)
        information = torch.linalg.inv(0.9 * covariance + 0.1 * torch.eye(7) / 2)
        covariance = torch.linalg.inv(information + x[0].mT @ x[0])
        mean = covariance @ (information @ mean + x[0].mT @ y[0])
    torch.testing.assert_close(ridge.weights[0], mean, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(ridge.inverse[0], covariance, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("settings", [{"forget": 0.5}, {"drift": 0.5}])
def test_a_group_without_a_row_forgets_nothing(settings):
    ridge = Ridge(torch.zeros(2, 7, 3), torch.eye(7).expand(2, 7, 7), **settings)
    taught = torch.ones(2, ROWS, dtype=torch.bool)
    ridge.learn(normal(2, ROWS, 7), normal(2, ROWS, 3), taught)
    before = ridge.inverse.clone()
    taught[1] = False
    ridge.learn(normal(2, ROWS, 7, seed=3), normal(2, ROWS, 3), taught)
    assert torch.equal(ridge.inverse[1], before[1])
    assert not torch.equal(ridge.inverse[0], before[0])


def test_a_prior_of_all_rows_is_a_fit_with_them(states):
    test, other = states.select([0]), states.select([1, 2, 3])
    rows = float(other.taught.sum())
    arm = replace(SMALL, ridge=FIT_RIDGE, prior="rows", prior_rows=rows)
    features = Features(arm, HIDDEN, other)
    ridge = open_ridge(arm, features, test, other)
    for step in range(STEPS):
        shown, deep = (test.states[kind][:, step] for kind in ("first", "deep"))
        ridge.learn(features(shown), deep, test.taught[:, step])
    phi = features(torch.cat([each.rows("first") for each in (test, other)])).double()
    deep = torch.cat([each.rows("deep") for each in (test, other)]).double()
    gram = phi.mT @ phi + FIT_RIDGE * torch.eye(phi.shape[1])
    expected = torch.linalg.solve(gram, phi.mT @ deep)
    torch.testing.assert_close(ridge.weights[0].double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "fitted", [{"prior": "weights"}, {"standardised": True}, {"features": "learned"}]
)
def test_no_prompt_is_judged_by_a_fit_that_has_seen_it(states, fitted):
    arm = replace(SMALL, **fitted)
    plain = run_arm(arm, states)["error"]
    for changed, untouched in ((0, 2), (1, 3)):
        deep, first = states.states["deep"].clone(), states.states["first"].clone()
        deep[changed] += 1
        first[changed] *= torch.arange(HIDDEN)
        other = replace(states, states={**states.states, "deep": deep, "first": first})
        error = run_arm(arm, other)["error"]
        assert torch.equal(error[untouched], plain[untouched])
        assert not torch.equal(error[1 - changed], plain[1 - changed])


def test_a_fit_helps_on_prompts_of_the_same_kind(states):
    plain = run_arm(SMALL, states)["error"]
    prior = run_arm(replace(SMALL, prior="weights"), states)["error"]
    assert prior[:, 0].max() < plain[:, 0].min()


def test_the_relative_error_is_of_taught_rows():
    deep = torch.tensor([[[2.0, 0.0], [0.0, 2.0], [torch.nan] * 2], [[torch.nan] * 2] * 3])
    residual = torch.tensor([[[1.0, 2.0], [-1.0, 0.0], [torch.nan] * 2], [[torch.nan] * 2] * 3])
    taught = torch.tensor([[True, True, False], [False] * 3])
    found = relative_error(residual, deep, taught)
    assert found[0].item() == pytest.approx((5 / 4 + 1 / 4) / 2)
    assert found[1].isnan()


def test_leverage_is_ranked_against_the_error_where_rows_differ():
    deep, taught = torch.ones(3, 4, 2), torch.ones(3, 4, dtype=torch.bool)
    residual = torch.tensor([1.0, 4.0, 2.0, 3.0])[None, :, None].expand(3, 4, 2)
    leverage = torch.tensor([[0.1, 9.0, 0.2, 1.0], [9.0, 0.1, 1.0, 0.2], [0.5] * 4])
    found = rank_correlation(leverage, residual, deep, taught)
    assert found[:2].tolist() == pytest.approx([1, -1])
    assert found[2].isnan()


def test_health_sees_plain_forgetting_blow_up_and_drift_hold():
    phi, deep = normal(50, ROWS, 7), normal(50, ROWS, 3, seed=1)
    phi[..., -1] = 0.0  # a feature that is never seen: nothing holds its variance down
    case = Case(data="varied", forget=0.5)
    grown, overflown = check(case, phi, deep)
    # 2^128/λ still fits fp32 at the first mark; the next is past its end.
    assert grown["finite"]
    assert grown["largest"] == pytest.approx(2.0**128 / case.ridge, rel=1e-4)
    assert overflown == {"step": 1024, "finite": False}
    first = next(check(Case(data="varied", drift=0.1), phi, deep))
    assert first["finite"]
    assert first["gap"] < 1e-4
    assert first["largest"] <= 1 / 100 + 1e-6


def test_health_learns_from_whole_steps_without_padding(states):
    phi, deep = long_run(states)
    assert phi.shape == (GROUPS * 3, ROWS, 256)
    assert deep.shape == (GROUPS * 3, ROWS, HIDDEN)
    assert phi[..., :255].flatten(0, 1).amax(dim=0).min() > 0
    assert (phi[..., 255] == 1).all()


def test_the_tape_keeps_what_the_model_computes():
    model = tiny("llama")
    tape = Tape(model, 5)
    generator = TransformersGenerator(model=model, tokenizer=tiny_tokenizer(), chat_template="none")
    request = Request(
        prompts=["abc", "hello"],
        samples=SAMPLES,
        sampling=Sampling(temperature=1.0, max_new_tokens=6),
        seed=0,
    )
    completions = generator.generate(request, Recorder(tape=tape)).completions[1]
    tape.remove()
    assert tape.taught.all()
    ids = generator.tokenizer("hello", add_special_tokens=False)["input_ids"]
    for number in (0, SAMPLES - 1):
        sequence = torch.tensor([ids + list(completions[number].token_ids)])
        hidden = model(input_ids=sequence, output_hidden_states=True).hidden_states
        sample = SAMPLES + number
        for kind, layer in (("embedding", 0), ("first", 1), ("middle", 1), ("deep", -1)):
            after = hidden[layer][0, len(ids) : -1]
            torch.testing.assert_close(
                tape.states[kind][sample].float(), after, rtol=1e-2, atol=1e-2
            )
    torch.testing.assert_close(
        tape.prefill[SAMPLES]["deep"].float(), hidden[-1][0, : len(ids)], rtol=1e-2, atol=1e-2
    )


def test_every_arm_has_a_name_of_its_own():
    everything = arms()
    assert everything[DEFAULT] == Arm()
    assert set(FINALISTS) <= set(everything)
    assert len({repr(arm) for arm in everything.values()}) == len(everything)
    assert sum(map(len, tables().values())) == len(everything)
    for name, arm in everything.items():
        assert arm.distiller is not None or arm.name == name


def test_a_summary_compares_prompt_by_prompt():
    mean = np.array([[1.0, 0.6], [1.0, 0.2]])
    known = {MEAN: {"error": mean}, DEFAULT: {"error": mean / 2}}
    found = summarise(known, DEFAULT, Arm())
    assert found["mean"]["value"] == pytest.approx(0.35)
    assert found["step 1"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert set(found[f"/ {MEAN}"].values()) == {0.5}
    assert "leverage" not in found
