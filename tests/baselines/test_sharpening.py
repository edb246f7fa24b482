import pytest
import torch

from esamp import ESamp, UsageError
from esamp.baselines import Sharpening
from steps import random_step
from toy import VOCAB, call_of

GROUPS = [0, 0, 1]


def test_logits_are_multiplied():
    step, head = random_step(GROUPS), torch.randn(8, VOCAB)
    push = Sharpening(beta=0.5).start(call_of(GROUPS)).steer(step)
    torch.testing.assert_close(push.states @ head, 1.5 * (step.deep @ head))
    assert push.novelty is None


def test_it_is_esamp_before_its_distiller_knows_anything():
    step = random_step(
        GROUPS,
        positions=torch.tensor([0, 3, 3]),
        unfinished=torch.tensor([True, False, True]),
        beta=torch.tensor([1.0, 1.0, 0.25]),
    )
    sharp, esamp = (method.start(call_of(GROUPS)).steer(step) for method in (Sharpening(), ESamp()))
    torch.testing.assert_close(sharp.states, esamp.states)
    assert torch.equal(sharp.states[:2], step.deep[:2])
    assert not torch.equal(sharp.states[2], step.deep[2])


def test_a_state_that_would_not_be_finite_is_left_alone():
    step = random_step(GROUPS)
    step.deep[0] = 3e38
    step.deep[1] = torch.nan
    states = Sharpening(beta=1.0).start(call_of(GROUPS)).steer(step).states
    torch.testing.assert_close(states[:2], step.deep[:2], rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(states[2], 2 * step.deep[2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"beta": -1.0}, "beta is -1.0"), ({"truncation": "both"}, "give one of reference, fused")],
)
@pytest.mark.usefixtures("unchecked")
def test_values_that_cannot_be_used_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        Sharpening(**settings)
