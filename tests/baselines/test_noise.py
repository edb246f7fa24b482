import dataclasses

import pytest
import torch
from torch.nn.functional import cosine_similarity

from esamp.baselines.noise import GaussianNoise
from esamp.explorer import ESamp
from esamp.mlp import MLPDistiller
from steps import HIDDEN, no_tokens, random_step, select
from toy import call_of

GROUPS = [0, 0, 0, 1, 1, 1]
METHOD = GaussianNoise(esamp=ESamp(beta=0.5))


def start(seed=0, method=METHOD):
    return method.start(call_of(GROUPS, seed))


def taught(steering):
    step = random_step(GROUPS, seed=1)
    steering.steer(step)
    steering.learn(step, no_tokens(step))
    return steering


def test_the_push_has_the_residuals_length_and_another_direction():
    steering, step = taught(start()), random_step(GROUPS)
    residual = step.deep - steering.bank.predict(step.shallow, step.layout)
    push = steering.steer(step)
    noise = push.states - step.deep
    torch.testing.assert_close(noise.norm(dim=-1), 0.5 * residual.norm(dim=-1))
    assert (cosine_similarity(noise, residual).abs() < 0.95).all()
    torch.testing.assert_close(push.novelty, residual.norm(dim=-1) / step.deep.norm(dim=-1))


def test_directions_have_no_bias_and_are_fresh_for_each_row_and_token():
    steering, step = start(), random_step(GROUPS)
    steps = [steering.steer(step).states - step.deep for _ in range(500)]
    directions = torch.nn.functional.normalize(torch.cat(steps), dim=-1)
    assert directions.mean(dim=0).norm() < 4 / len(directions) ** 0.5
    assert (directions.T @ directions / len(directions)).diagonal().max() < 1.2 / HIDDEN
    similar = directions @ directions.T
    assert similar.fill_diagonal_(0).abs().max() < 0.999


def test_a_rows_noise_does_not_depend_on_who_has_left():
    """Rows 0, 2 and 5 are left in the second step, in another order."""
    together, thinned = start(), start()
    first, second = random_step(GROUPS, seed=2), random_step(GROUPS, seed=3)
    rows = [5, 0, 2]
    together.steer(first)
    thinned.steer(first)
    few = select(second, rows, [1, 0, 0], capacity=2)
    torch.testing.assert_close(thinned.steer(few).states, together.steer(second).states[rows])


def test_the_calls_seed_decides_the_noise():
    step = random_step(GROUPS)
    states = start(seed=1).steer(step).states
    assert torch.equal(start(seed=1).steer(step).states, states)
    assert not torch.allclose(start(seed=2).steer(step).states, states)


def test_everything_else_is_esamps():
    """The same rows are left alone, and the distillers learn the same."""
    step = random_step(
        GROUPS,
        positions=torch.tensor([0, 3, 3, 3, 3, 3]),
        unfinished=torch.tensor([True, False, True, True, True, True]),
        beta=torch.tensor([1.0, 1.0, 0.0, 1.0, 0.25, 1.0]),
    )
    step.deep[3] = torch.nan
    noise, esamp = taught(start()), taught(start(method=METHOD.esamp))
    push, plain = noise.steer(step), esamp.steer(step)
    torch.testing.assert_close(push.novelty, plain.novelty, equal_nan=True)
    torch.testing.assert_close(push.states[:4], step.deep[:4], rtol=0, atol=0, equal_nan=True)
    for steering in (noise, esamp):
        steering.learn(step, no_tokens(step))
    assert torch.equal(noise.bank.weights, esamp.bank.weights)


def test_settings_are_those_of_the_esamp_it_controls_for():
    esamp = ESamp(beta=0.0, distiller=MLPDistiller(), scope="sample", truncation="fused", layer=3)
    noise = GaussianNoise(esamp=esamp)
    assert (noise.scope, noise.truncation, noise.layer) == ("sample", "fused", 3)
    assert noise.inert
    assert not GaussianNoise(esamp=dataclasses.replace(esamp, beta=0.1)).inert
    assert not noise.needs_reference
    assert GaussianNoise() != noise


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_strength_scales_the_noise(beta):
    step, method = random_step(GROUPS), GaussianNoise(esamp=ESamp(beta=beta))
    half = start().steer(step).states - step.deep
    torch.testing.assert_close(start(method=method).steer(step).states, step.deep + 2 * beta * half)
