import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esamp.layout import Layout
from steps import random_states

CAPACITY = 5
GROUPS = st.lists(st.integers(0, CAPACITY - 1), max_size=12)


@given(GROUPS)
def test_unpack_undoes_pack(groups):
    layout = Layout.of(groups, CAPACITY)
    rows = random_states(len(groups))
    assert torch.equal(layout.unpack(layout.pack(rows)), rows)


@given(GROUPS)
def test_each_row_stands_with_its_group_in_the_engines_order(groups):
    layout = Layout.of(groups, CAPACITY)
    packed = layout.pack(torch.arange(len(groups))[:, None])[..., 0]
    for group in range(CAPACITY):
        rows = [row for row, its_group in enumerate(groups) if its_group == group]
        assert packed[group][layout.occupied[group]].tolist() == rows
    assert layout.group.tolist() == groups


@given(GROUPS, st.data())
def test_a_packed_mask_is_false_at_free_places_and_follows_its_rows(groups, data):
    size = len(groups)
    mask = torch.tensor(
        data.draw(st.lists(st.booleans(), min_size=size, max_size=size)), dtype=torch.bool
    )
    layout = Layout.of(groups, CAPACITY)
    packed = layout.pack_mask(mask)
    assert torch.equal(layout.unpack(packed[..., None])[:, 0], mask)
    assert packed.sum() == mask.sum()


def test_places_are_as_many_as_the_largest_group_has_rows():
    layout = Layout.of([2, 0, 2, 2], 4)
    assert layout.groups == 4
    assert layout.occupied.tolist() == [
        [True, False, False],
        [False, False, False],
        [True, True, True],
        [False, False, False],
    ]


@pytest.mark.parametrize("capacity", [0, 3])
def test_a_batch_without_rows_has_groups_and_no_places(capacity):
    layout = Layout.of([], capacity)
    assert layout.pack(torch.zeros(0, 7)).shape == (capacity, 0, 7)
    assert layout.unpack(torch.zeros(capacity, 0, 7)).shape == (0, 7)


@pytest.mark.parametrize("group", [-1, 2])
def test_a_group_outside_the_bank_is_refused(group):
    with pytest.raises(IndexError, match=f"row 1 belongs to group {group}, there are 2"):
        Layout.of([0, group], 2)


@pytest.mark.parametrize(
    ("groups", "in_order"),
    [([0, 0, 1, 1], True), ([0, 1, 0, 1], False), ([0, 0, 1], False), ([1, 1], False)],
)
def test_rows_that_come_in_order_are_not_moved_and_stand_where_they_would(groups, in_order):
    layout = Layout.of(groups, 2)
    assert layout.in_order == in_order
    moving = dataclasses.replace(layout, in_order=False)
    rows = random_states(len(groups))
    assert torch.equal(layout.pack(rows), moving.pack(rows))
    assert torch.equal(layout.unpack(layout.pack(rows)), moving.unpack(moving.pack(rows)))
    assert (layout.pack(rows).data_ptr() == rows.data_ptr()) == in_order
