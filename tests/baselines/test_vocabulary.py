"""Against the definition: a network of its own for each group, autograd, `torch.optim.Adam`."""

import dataclasses

import pytest
import torch
from torch.nn.functional import kl_div

from esamp import ESamp, MeanDistiller, MLPDistiller, ModelError, UsageError
from esamp.baselines import VocabularySpace
from steps import HIDDEN, no_tokens, random_step
from toy import MODEL, call_of

GROUPS = [0, 1, 0, 0, 1]
NETWORK = MLPDistiller(width=6, learning_rate=0.01)
METHOD = VocabularySpace(esamp=ESamp(beta=0.5, distiller=NETWORK))


def network(weights, states):
    for block in weights.chunk(2):
        gate, up, down = block.view(3, HIDDEN, NETWORK.width)
        states = states + (torch.nn.functional.silu(states @ gate) * (states @ up)) @ down.T
    return states


def test_it_is_its_definition():
    steering = METHOD.start(call_of(GROUPS))
    weights = [each.clone().requires_grad_() for each in steering.bank.weights]
    adams = [torch.optim.Adam([each], lr=0.01, eps=NETWORK.epsilon) for each in weights]
    for number in range(6):
        unfinished = torch.tensor([True, True, number % 2 == 0, True, number < 4])
        step = random_step(GROUPS, seed=number, unfinished=unfinished)
        step.deep[~unfinished] = torch.nan
        push = steering.steer(step)
        for group, (own, adam) in enumerate(zip(weights, adams, strict=True)):
            rows = [row for row, its in enumerate(GROUPS) if its == group and unfinished[row]]
            predicted = network(own, step.shallow[rows])
            deep = step.deep[rows]
            torch.testing.assert_close(
                push.states[rows], deep + 0.5 * (deep - predicted), atol=1e-5, rtol=1e-4
            )
            reference = MODEL.head(deep).log_softmax(dim=-1)
            distilled = MODEL.head(predicted).log_softmax(dim=-1)
            adam.zero_grad()
            kl_div(distilled, reference, reduction="batchmean", log_target=True).backward()
            torch.nn.utils.clip_grad_norm_(own, NETWORK.clip)
            adam.step()
        steering.learn(step, no_tokens(step))
    assert (steering.bank.weights - steering.bank._initial).abs().max() > 0.02


def test_it_learns_the_models_logits():
    steering, step = METHOD.start(call_of(GROUPS)), random_step(GROUPS)

    def divergence():
        predicted = steering.bank.predict(step.shallow, step.layout)
        reference, distilled = (MODEL.head(each).log_softmax(-1) for each in (step.deep, predicted))
        return kl_div(distilled, reference, reduction="batchmean", log_target=True)

    before = divergence()
    for _ in range(60):
        steering.learn(step, no_tokens(step))
    assert divergence() < 0.1 * before


def test_without_a_head_it_says_so():
    with pytest.raises(ModelError, match="vocabulary-space distiller cannot learn"):
        METHOD.start(dataclasses.replace(call_of(GROUPS), head=None))


def test_another_distiller_is_refused():
    with pytest.raises(UsageError, match="distiller is 'mean': only mlp learns by gradients"):
        VocabularySpace(esamp=ESamp(distiller=MeanDistiller()))


def test_the_default_is_the_papers_network():
    assert VocabularySpace().within == ESamp.paper()
