"""Controls in ESamp's place are the baselines of the same names."""

import pytest
import torch

from esamp.backends.vllm.controls import open_explorer
from esamp.baselines import Sharpening
from esamp.capture import Captured
from esamp.distiller import MeanDistiller
from esamp.explorer import ESamp, Explorer
from esamp.method import Call
from late import Late
from steps import no_tokens, random_step

GROUPS = [0, 1, 0, 1, 1]
HIDDEN = 16


def opened(control, **settings):
    settings = ESamp(distiller=MeanDistiller(), **settings)
    return open_explorer(control, settings, 2, HIDDEN, "cpu")


def step():
    return random_step(GROUPS, hidden=HIDDEN, beta=torch.tensor([0.5, 1.0, 0.0, 2.0, 0.25]))


def test_no_control_is_the_explorer():
    assert type(opened("none")) is Explorer


@pytest.mark.parametrize(
    ("captured", "control", "broadcast", "settings"),
    [
        (True, "none", None, {}),
        (False, "none", None, {"capture": False}),
        (False, "none", lambda values: values, {}),
        (False, "noise", None, {}),
        (False, "sharpening", None, {}),
    ],
    ids=["esamp", "told not to", "ranks that talk", "what draws", "what learns nothing"],
)
def test_only_esamp_on_one_rank_is_captured(captured, control, broadcast, settings, monkeypatch):
    def capture(explorer, device):
        return Captured(explorer, Late(explorer.bank))

    monkeypatch.setattr("esamp.backends.vllm.controls.capture", capture)
    found = open_explorer(control, ESamp(**settings), 2, HIDDEN, "cpu", broadcast)
    assert isinstance(found, Captured) == captured


def test_sharpening_is_the_baseline_and_learns_nothing():
    explorer, shown = opened("sharpening"), step()
    call = Call(hidden=HIDDEN, prompts=[[1]] * 5, groups=GROUPS, seed=0, device=torch.device("cpu"))
    expected = Sharpening().start(call).steer(shown)
    for _ in range(2):
        torch.testing.assert_close(explorer.steer(shown).states, expected.states)
        explorer.learn(shown, no_tokens(shown))
    assert not explorer.bank.count.any()


def test_noise_has_the_residuals_length_and_another_direction_each_time():
    explorer, plain, shown = opened("noise"), opened("none"), step()
    for each in (explorer, plain):
        each.learn(shown, no_tokens(shown))
    first, second, residual = explorer.steer(shown), explorer.steer(shown), plain.steer(shown)
    moved = [each.states - shown.deep for each in (first, second, residual)]
    lengths = [each.norm(dim=-1) for each in moved]
    torch.testing.assert_close(lengths[0], lengths[2])
    torch.testing.assert_close(first.novelty, residual.novelty)
    steered = shown.beta > 0
    for one, other in ((0, 1), (0, 2)):
        assert ((moved[one] - moved[other]).norm(dim=-1)[steered] > 0).all()
    assert not moved[0][~steered].any()


def test_plain_rows_are_left_as_they_are_and_learn_nothing():
    explorer, shown = opened("plain"), step()
    for _ in range(2):
        assert torch.equal(explorer.steer(shown).states, shown.deep)
        explorer.learn(shown, no_tokens(shown))
    assert not explorer.bank.count.any()


@pytest.mark.parametrize("control", ["noise", "sharpening", "plain"])
def test_two_ranks_do_the_same_and_the_global_generator_is_left_alone(control):
    before = torch.get_rng_state()
    one, other, shown = opened(control), opened(control), step()
    for _ in range(3):
        assert torch.equal(one.steer(shown).states, other.steer(shown).states)
    assert torch.equal(torch.get_rng_state(), before)
