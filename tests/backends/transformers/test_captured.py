"""Captured steps within `generate`: on the CPU with the stand-in, on a GPU with real graphs."""

import pytest
import torch

from esamp.backends.transformers import generate
from esamp.capture import Captured
from esamp.explorer import ESamp
from late import Late
from tiny import EOS, batch, tiny

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
    ),
]


@pytest.mark.parametrize("device", DEVICES)
def test_captured_steps_draw_the_same_tokens_while_rows_finish_and_leave(device, monkeypatch):
    recorded = []

    def capture(explorer, device):
        recorded.append(Late(explorer.bank))
        return Captured(explorer, recorded[-1])

    if device == "cpu":
        monkeypatch.setattr("esamp.explorer.capture", capture)
    model = tiny("llama").to(device)
    inputs = {name: each.to(device) for name, each in batch([5, 6, 7], [8, 9]).items()}
    ours, theirs = (
        generate(
            model,
            **inputs,
            method=ESamp(beta=1.0, capture=captured),
            seed=3,
            num_return_sequences=6,
            max_new_tokens=60,
            eos_token_id=EOS,
            top_k=0,
        )
        for captured in (True, False)
    )
    assert len(set(ours.lengths.tolist())) > 3, "rows end at different times"
    assert torch.equal(ours.sequences, theirs.sequences)
    torch.testing.assert_close(ours.novelty, theirs.novelty, rtol=0, atol=0, equal_nan=True)
    assert device != "cpu" or [each.recorded >= 4 for each in recorded] == [True]
