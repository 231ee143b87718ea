"""Items on placeholders, counted by hand."""

from __future__ import annotations

import pytest
import torch

from tokenreduce.errors import AdapterError
from tokenreduce.layout import Role
from tokenreduce.placement import Grid, Item, place

I, V, SEP = 90, 91, 92  # noqa: E741
NEWLINE, CLS = Role.NEWLINE, Role.CLS


def placed(row: list[int], items: dict[int, list[Item]], **options):
    layout = place(torch.tensor([row]), items, **options)
    names = ("role", "item", "frame", "row", "column")
    return list(zip(*(getattr(layout, name)[0].tolist() for name in names), strict=True))


def test_parts_of_one_item_with_text_between_them():
    video = (Grid(1, 1, 2), Grid(1, 1, 2, first_frame=1))
    assert placed([1, V, V, 5, V, V, 2], {V: [video]}) == [
        (0, -1, -1, -1, -1),
        (1, 0, 0, 0, 0),
        (1, 0, 0, 0, 1),
        (0, -1, -1, -1, -1),
        (1, 0, 1, 0, 0),
        (1, 0, 1, 0, 1),
        (0, -1, -1, -1, -1),
    ]


def test_marks_that_share_the_placeholder_and_items_of_two_kinds_that_touch():
    items = {V: [(CLS, Grid(1, 2, 1))], I: [(Grid(1, 1, 1), NEWLINE)]}
    assert placed([I, I, V, V, V], items) == [
        (1, 0, 0, 0, 0),
        (int(NEWLINE), 0, -1, -1, -1),
        (int(CLS), 1, -1, -1, -1),
        (1, 1, 0, 0, 0),
        (1, 1, 0, 1, 0),
    ]


def test_separators_count_only_behind_tokens_of_an_item():
    items = {I: [(Grid(1, 1, 1), Grid(1, 1, 1, first_row=1))]}
    roles = [role for role, *_ in placed([SEP, I, SEP, I, SEP, 3, SEP], items, separators=[SEP])]
    assert roles == [0, 1, int(Role.SEPARATOR), 1, int(Role.SEPARATOR), 0, 0]


def test_column_order_and_several_rows_of_a_batch_take_items_in_turn():
    ids = torch.tensor([[V, V, V, V, 7], [0, 7, 8, V, V]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]])
    items = {V: [(Grid(1, 2, 2, order="column"),), (Grid(2, 1, 1),)]}
    layout = place(ids, items, mask, note="by hand")
    assert layout.row[0].tolist() == [0, 1, 0, 1, -1]
    assert layout.column[0].tolist() == [0, 0, 1, 1, -1]
    assert layout.frame[1].tolist() == [-1, -1, -1, 0, 1]
    assert layout.role[1].tolist() == [int(Role.PAD), 0, 0, 1, 1]
    assert layout.note == "by hand"


def test_items_that_are_left_over_belong_to_another_turn():
    assert placed([V, 1], {V: [(Grid(1, 1, 1),)] * 3})[0] == (1, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            [1, V, V, 2],
            r"part 1 of 2 .* video 0 is 3 placeholders .* position 1 on, but there are 2",
        ),
        ([V, V, V, 2, 3], r"part 2 of 2 .* is 1 placeholders .* position 5 on, but there are 0"),
        ([V, V, V, V, V], r"placeholder \(token id 91\) at position 4, .* fewer images or videos"),
    ],
)
def test_placeholders_that_do_not_add_up_are_refused(row, message):
    with pytest.raises(AdapterError, match=message):
        placed(row, {V: [(Grid(1, 1, 3), NEWLINE)]})
