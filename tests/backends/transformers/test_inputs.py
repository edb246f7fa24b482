import torch

from esamp.backends.transformers.inputs import find_copies, is_text, select_rows
from tiny import batch

SHORT, LONG = [5, 6], [5, 6, 7]


def copies_of(*prompts, **model_kwargs):
    inputs = batch(*prompts)
    mask = {"attention_mask": inputs["attention_mask"]}
    return find_copies(inputs["input_ids"], mask | model_kwargs)


def test_rows_that_are_alike_are_found_wherever_they_are():
    prompts = [LONG, SHORT, LONG, SHORT, SHORT]
    first, of = copies_of(*prompts)
    assert sorted(first.tolist()) == [0, 1]
    assert [prompts[first[kind]] for kind in of] == prompts


def test_without_copies_there_is_nothing_to_share():
    assert copies_of(LONG, SHORT) is None
    assert copies_of(SHORT) is None


def test_rows_with_the_same_tokens_at_other_positions_are_not_alike():
    positions = torch.tensor([[0, 1], [4, 5], [0, 1]])
    first, of = copies_of(SHORT, SHORT, SHORT, position_ids=positions)
    assert len(first) == 2
    assert of[0] == of[2] != of[1]


def test_padding_that_is_masked_is_told_from_a_token():
    tokens = torch.tensor([[0, 5], [0, 5]])
    masks = {"attention_mask": torch.tensor([[0, 1], [1, 1]])}
    assert find_copies(tokens, masks) is None
    assert len(find_copies(tokens, {"attention_mask": None}).first) == 1


def test_rows_are_selected_from_one_or_several_positions_a_token():
    given = {
        "attention_mask": torch.arange(6).view(3, 2),
        "position_ids": torch.arange(24).view(4, 3, 2),
        "token_type_ids": None,
        "use_cache": True,
    }
    some = select_rows(given, torch.tensor([2, 0]))
    assert some["attention_mask"].tolist() == [[4, 5], [0, 1]]
    assert torch.equal(some["position_ids"], given["position_ids"][:, [2, 0]])
    assert some["token_type_ids"] is None
    assert some["use_cache"] is True
    assert len(given["attention_mask"]) == 3, "what was given stays as it is"


def test_what_was_seen_makes_an_input_more_than_text():
    assert is_text({"attention_mask": torch.ones(1, 2), "use_cache": True})
    assert is_text({"pixel_values": None, "mm_encoder_outputs": {}})
    assert not is_text({"pixel_values": torch.zeros(1)})
    assert not is_text({"mm_encoder_outputs": {"image": torch.zeros(1)}})
