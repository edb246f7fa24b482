"""The pure parts of experiments/anatomy.py: what it measures is what it says."""

import sys
from pathlib import Path

import pytest
import torch

from esamp import MeanDistiller, RecursiveDistiller

sys.path.append(str(Path(__file__).parents[2] / "experiments"))

from anatomy import (
    BETA,
    TABLE_OF,
    Drawn,
    dissect,
    kinds_of,
    sharpening,
    summarise,
    tokens_of,
    write_tables,
)
from distillers_states import KINDS, Recording

GROUPS, STEPS, ROWS, HIDDEN, VOCAB = 3, 5, 4, 8, 20
PIECES = ["<s>", "Ġthe", "ing", ",", "Ċ", *(f"Ġw{number}" for number in range(15))]
KINDS_OF_PIECES = kinds_of(PIECES, {"<s>"})


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def recording():
    shape = (GROUPS, STEPS, ROWS, HIDDEN)
    states = {kind: normal(*shape, seed=number) for number, kind in enumerate(KINDS)}
    taught = torch.ones(GROUPS, STEPS, ROWS, dtype=torch.bool)
    taught[1, 3:, 2] = False
    return Recording(states, taught, [])


def dissected(distiller):
    tokens = torch.arange(GROUPS * STEPS * ROWS).view(GROUPS, STEPS, ROWS) % VOCAB
    head = normal(VOCAB, HIDDEN, seed=9)
    return dissect(distiller, recording(), head, tokens, KINDS_OF_PIECES)


def test_kinds_of_tokens():
    assert KINDS_OF_PIECES.argmax(dim=1)[:6].tolist() == [3, 0, 1, 2, 3, 0]
    assert torch.equal(KINDS_OF_PIECES.sum(dim=1), torch.ones(VOCAB))


def test_tokens_are_found_again_by_their_embeddings():
    embeddings = normal(VOCAB, HIDDEN)
    tokens = torch.randint(VOCAB, (2, 3, 4), generator=torch.Generator().manual_seed(1))
    states = embeddings[tokens].half().float()
    assert torch.equal(tokens_of(states, embeddings), tokens)


@pytest.mark.parametrize("slope", [-0.4, 0.0, 0.7])
def test_a_temperature_is_all_sharpening_whatever_is_added_to_all_logits(slope):
    plain = normal(6, VOCAB).log_softmax(-1)
    noise = 0.0 if slope else normal(6, VOCAB, seed=2)
    found, share = sharpening(plain, slope * plain + 3 + noise)
    if slope:
        torch.testing.assert_close(found, torch.full((6,), slope))
        torch.testing.assert_close(share, torch.ones(6))
    else:
        assert ((share > 0) & (share < 0.9)).all()


def test_drawn_tokens_are_ones_own_or_the_siblings():
    drawn = Drawn(1, 2, 5)
    drawn.add(torch.tensor([[0, 1]]), torch.tensor([[True, True]]))
    drawn.add(torch.tensor([[1, 2]]), torch.tensor([[True, False]]))
    drawn.add(torch.tensor([[0, 2]]), torch.tensor([[False, False]]))
    own, siblings = drawn.parts()
    assert own.int().tolist() == [[[1, 1, 0, 0, 0], [0, 1, 0, 0, 0]]]
    assert siblings.int().tolist() == [[[0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]]


def test_parts_and_classes_are_whole():
    found = dissected(RecursiveDistiller(features=8, ridge=1.0))
    shares = found["deep"] + found["mean"] + found["rest"]
    torch.testing.assert_close(shares, torch.ones(GROUPS, STEPS))
    for classes in (
        ("likeliest token", "ranks 2 to 10", "other ranks"),
        ("drawn before in this sample", "drawn before by siblings only", "new to the group"),
        ("word begins", "word goes on", "punctuation", "control"),
    ):
        gains = sum(found[name] for name in classes)
        torch.testing.assert_close(gains, torch.zeros(GROUPS, STEPS), atol=1e-4, rtol=0)
    assert ((found["moved"] > 0) & (found["moved"] < 1)).all()


def test_before_anything_is_learnt_the_push_is_sharpening():
    found = dissected(MeanDistiller())
    first = {name: values[:, 0] for name, values in found.items()}
    for name in ("deep", "R² of temperature", "‖residual‖²/‖deep‖²"):
        torch.testing.assert_close(first[name], torch.ones(GROUPS), msg=name)
    torch.testing.assert_close(first["inverse temperature"], torch.full((GROUPS,), 1 + BETA))
    torch.testing.assert_close(first["entropy fused"], first["entropy at that temperature"])
    assert (found["rest"] < 1e-5).all(), "what the mean leaves has no rest"


def test_tables_have_every_measure(tmp_path):
    results = {"made": summarise(dissected(MeanDistiller()))}
    assert {key for columns in TABLE_OF.values() for key in columns} <= set(results["made"])
    write_tables(results, tmp_path)
    text = (tmp_path / "tables.md").read_text()
    assert all(title in text for title in TABLE_OF)
