import pytest
import torch

from esamp import UsageError
from esamp.backends.transformers.rows import Rows, choose_seed, row_betas
from tiny import batch


def rows_of(*prompts, samples=1, **model_kwargs):
    inputs = batch(*prompts)
    expanded = {name: value.repeat_interleave(samples, dim=0) for name, value in inputs.items()}
    mask = {"attention_mask": expanded["attention_mask"]}
    return Rows.of(expanded["input_ids"], samples, mask | model_kwargs)


def test_the_samples_of_a_prompt_are_a_group():
    assert rows_of([5, 6], [7, 8], samples=3).groups("prompt") == [0, 0, 0, 1, 1, 1]


def test_equal_prompts_given_separately_are_a_group():
    assert rows_of([5, 6], [7, 8], [5, 6]).groups("prompt") == [0, 1, 0]


def test_padding_is_no_part_of_a_prompt():
    assert rows_of([5, 6], [7, 8, 9]).prompts == [(5, 6), (7, 8, 9)]


def test_groups_can_be_everyone_or_nobody():
    rows = rows_of([5, 6], [7, 8], samples=2)
    assert rows.groups("shared") == [0, 0, 0, 0]
    assert rows.groups("sample") == [0, 1, 2, 3]


def test_where_tokens_are_not_all_there_is_equal_tokens_are_not_equal_prompts():
    rows = rows_of([5, 6], [5, 6], samples=2, pixel_values=torch.zeros(4, 1))
    assert rows.groups("prompt") == [0, 0, 1, 1]


def streams(rows, seed=3):
    return torch.stack([rows.uniforms(seed, torch.device("cpu")).next()]).T[:, 0].tolist()


def test_a_rows_numbers_depend_on_seed_prompt_and_sample_alone():
    short, long = streams(rows_of([5, 6], samples=2)), streams(rows_of([7, 8, 9], samples=2))
    assert streams(rows_of([7, 8, 9], [5, 6], samples=2)) == long + short
    assert streams(rows_of([5, 6], [7, 8, 9], [5, 6])) == [short[0], long[0], short[1]]
    assert len({*short, *long, *streams(rows_of([5, 6], samples=2), seed=4)}) == 6


def test_rows_that_differ_in_more_than_tokens_draw_different_numbers():
    numbers = streams(rows_of([5, 6], [5, 6], pixel_values=torch.zeros(2, 1)))
    assert numbers[0] != numbers[1]


def test_without_a_seed_one_number_is_drawn_from_the_global_generator():
    torch.manual_seed(1)
    seed = choose_seed(None)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert int(torch.randint(2**63 - 1, ())) == seed
    assert torch.equal(torch.get_rng_state(), state)


def test_with_a_seed_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    assert choose_seed(5) == 5
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(UsageError, match=f"esamp_seed is {seed}"):
        choose_seed(seed)


def test_one_beta_is_for_all_and_a_list_is_per_prompt():
    cpu = torch.device("cpu")
    assert row_betas(0.5, rows=4, samples=2, device=cpu).tolist() == [0.5] * 4
    assert row_betas([0.0, 0.5], rows=4, samples=2, device=cpu).tolist() == [0.0, 0.0, 0.5, 0.5]
    assert row_betas(None, rows=4, samples=2, device=cpu) is None


@pytest.mark.parametrize(
    ("beta", "message"),
    [
        (float("nan"), "beta is nan"),
        (float("inf"), "beta is inf"),
        (-1.0, "beta is -1.0"),
        ([0.5, -0.5], "beta is -0.5"),
        ([0.5], "esamp_beta has 1 values for 2 prompts"),
        ([0.5, 0.5, 0.5], "esamp_beta has 3 values for 2 prompts"),
    ],
)
def test_a_beta_that_cannot_be_used_is_refused(beta, message):
    with pytest.raises(UsageError, match=message):
        row_betas(beta, rows=4, samples=2, device=torch.device("cpu"))
