import torch

from esamp import ESamp
from esamp.baselines import Subtraction
from steps import no_tokens, random_step
from toy import VOCAB, call_of

GROUPS = [0, 0, 0, 1, 1, 1]
METHOD = Subtraction(esamp=ESamp(beta=0.5))


def test_the_distilled_logits_are_subtracted():
    steering, head = METHOD.start(call_of(GROUPS)), torch.randn(8, VOCAB)
    for number in range(3):
        step = random_step(GROUPS, seed=number)
        predicted = steering.bank.predict(step.shallow, step.layout)
        push = steering.steer(step)
        expected = step.deep @ head - 0.5 * (predicted @ head)
        torch.testing.assert_close(push.states @ head, expected)
        novelty = (step.deep - predicted).norm(dim=-1) / step.deep.norm(dim=-1)
        torch.testing.assert_close(push.novelty, novelty)
        steering.learn(step, no_tokens(step))
    assert predicted.norm() > 0.1, "something was predicted"


def test_settings_are_those_of_its_esamp():
    method = Subtraction(esamp=ESamp(beta=0.0, scope="sample", truncation="fused", layer=2))
    assert (method.scope, method.truncation, method.layer) == ("sample", "fused", 2)
    assert method.inert
    assert not METHOD.inert
