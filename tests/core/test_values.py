"""Counts, layers, plans and their application, against plain Python."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenreduce import Plan
from tokenreduce.apply import Tokens, apply_plans, grid_rows
from tokenreduce.errors import ConfigError, LayoutError, ReducerError
from tokenreduce.layout import Layout, Mark, Role, SampleLayout, Span, contiguous_runs
from tokenreduce.schedule import keep_count, resolve_layer, resolve_layers, share_count

# ------------------------------------------------------------------ schedule


@pytest.mark.parametrize(
    ("total", "ratio", "left"),
    [
        (10, 0.9, 1),
        (10, 0.1, 9),
        (10, 0.3, 7),
        (3, 0.9, 1),
        (1, 0.5, 1),
        (0, 0.5, 0),
        (2304, 0.5, 1152),
    ],
)
def test_counts_by_hand(total, ratio, left):
    assert keep_count(total, ratio) == left


@given(st.integers(1, 10_000), st.decimals(0, Decimal("0.999"), places=3))
def test_counts_are_the_written_decimal_rounded_half_up(total, ratio):
    exact = (total * (1 - ratio)).quantize(Decimal(1), ROUND_HALF_UP)
    assert keep_count(total, float(ratio)) == max(1, int(exact))


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5])
def test_ratios_outside_are_refused(ratio):
    with pytest.raises(ConfigError, match=r"outside \[0, 1\)"):
        keep_count(10, ratio)


@pytest.mark.parametrize(
    ("setting", "layers", "index"),
    [
        (9 / 32, 32, 8),
        (9 / 32, 14, 3),
        (12 / 32, 32, 11),
        (20 / 32, 32, 19),
        (24 / 32, 32, 23),
        (24 / 32, 28, 20),
        (1, 14, 1),
        (-1, 14, -1),
        (13, 14, 13),
        (2.0, 14, 2),
    ],
)
def test_layers_by_hand(setting, layers, index):
    assert resolve_layer(setting, layers) == index


@pytest.mark.parametrize("setting", [14, -2, 1.5, -0.5])
def test_layers_outside_are_refused(setting):
    with pytest.raises(ConfigError, match="layer"):
        resolve_layer(setting, 14)


def test_layers_in_order_and_apart():
    assert resolve_layers((0.25, 5), 14) == (3, 5)
    with pytest.raises(ConfigError, match="meet"):
        resolve_layers((0.25, 3), 14)
    with pytest.raises(ConfigError, match="out of order"):
        resolve_layers((5, 3), 14)


def test_shares_of_the_original():
    assert share_count(2304, 48 / 2304) == 48
    assert share_count(256, 48 / 2304) == 5
    with pytest.raises(ConfigError, match="outside"):
        share_count(10, 2)


# ------------------------------------------------------------------ plans


@given(st.lists(st.integers(-2, 6), min_size=1, max_size=20))
def test_groups_are_numbered_by_first_members(labels):
    plan = Plan.groups(torch.tensor(labels))
    order: list[int] = []
    for label in labels:
        if label >= 0 and label not in order:
            order.append(label)
    assert plan.slot.tolist() == [order.index(x) if x >= 0 else -1 for x in labels]
    plan.validate(len(labels), "me")
    assert plan.kept == len(order)
    assert plan.first_members().tolist() == [labels.index(x) for x in order]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=24), st.integers(1, 4))
def test_windows_merge_consecutive_members_of_a_group(groups, width):
    plan = Plan.windows(torch.tensor(groups), width)
    expected: dict[tuple[int, int], int] = {}
    seen: dict[int, int] = {}
    slots = []
    for group in groups:
        window = (group, seen.get(group, 0) // width)
        seen[group] = seen.get(group, 0) + 1
        slots.append(expected.setdefault(window, len(expected)))
    assert plan.slot.tolist() == slots


@pytest.mark.parametrize(
    ("slot", "message"),
    [
        (torch.tensor([0, 2]), "empty or not in"),
        (torch.tensor([1, 0]), "chronological"),
        (torch.tensor([0, -2]), "slot -2"),
        (torch.tensor([0.0, 1.0]), "int64"),
        (torch.tensor([0, 1, 2]), "for 2 visual tokens"),
    ],
)
def test_plans_that_are_none(slot, message):
    with pytest.raises(ReducerError, match=message):
        Plan(slot).validate(2, "me")


# ------------------------------------------------------------------ application


@st.composite
def batches(draw):
    """Draw a layout of 1-3 samples, and twice in a row a plan per sample."""
    samples, lengths = [], []
    for _ in range(draw(st.integers(1, 3))):
        spans, marks, start = [], [], draw(st.integers(1, 3))
        for item in range(draw(st.integers(0, 2))):
            frames, rows = draw(st.integers(1, 3)), draw(st.integers(1, 3))
            spans.append(Span(start, frames, rows, 2, item))
            start += frames * rows * 2
            marks.append(Mark(start, Role.NEWLINE, item))
            start += 1
        samples.append((spans, marks))
        lengths.append(start + draw(st.integers(1, 3)))
    return samples, lengths, draw(st.randoms(use_true_random=False))


@given(batches())
def test_application_equals_plain_python(drawn):
    samples, lengths, random = drawn
    longest = max(lengths)
    shifted = []
    for (spans, marks), length in zip(samples, lengths, strict=True):
        pad = longest - length
        shifted.append(
            SampleLayout(
                tuple(Span(s.start + pad, s.frames, s.rows, s.columns, s.item) for s in spans),
                tuple(Mark(m.position + pad, m.role, m.item) for m in marks),
            )
        )
    mask = torch.tensor([[0] * (longest - n) + [1] * n for n in lengths])
    layout = Layout.build(shifted, longest, mask)
    hidden = torch.randn(len(lengths), longest, 4, dtype=torch.float64)
    tokens = Tokens.all_of(mask.bool())
    # The reference: per sample a list of (column, value, members), walked token by token.
    reference = [
        [(c, hidden[b, c], {c}) for c in range(longest) if mask[b, c]] for b in range(len(lengths))
    ]
    for _ in range(2):
        plans: list[Plan | None] = []
        for sample in range(len(lengths)):
            _, columns = grid_rows(tokens, layout, sample)
            labels = [random.randint(-1, 4) for _ in columns]
            plans.append(Plan.groups(torch.tensor(labels)) if len(columns) else None)
            if labels:
                reference[sample] = apply_by_hand(reference[sample], labels, layout, sample)
        hidden, tokens = apply_plans(hidden, tokens, layout, plans)
    for sample, expected in enumerate(reference):
        index = tokens.index[sample].tolist()
        alive = [row for row, column in enumerate(index) if column >= 0]
        assert [index[row] for row in alive] == [column for column, _, _ in expected]
        assert alive == list(range(len(index) - len(alive), len(index)))
        for row, (column, value, members) in zip(alive, expected, strict=True):
            assert torch.allclose(hidden[sample, row], value, atol=1e-5)
            assert tokens.size[sample, column] == len(members)
            assert {
                c for c, o in enumerate(tokens.owner[sample].tolist()) if o == column
            } == members


def apply_by_hand(rows, labels, layout, sample):
    """Merge tokens of equal labels into the first; drop negative ones and orphaned newlines."""
    grid = [row for row in rows if layout.role[sample, row[0]] == int(Role.GRID)]
    out = []
    for position, (column, _, _) in enumerate(grid):
        label = labels[position]
        group = [grid[j] for j, other in enumerate(labels) if other == label]
        if label < 0 or group[0][0] != column:
            continue
        members = set().union(*(m for _, _, m in group))
        value = sum(v * len(m) for _, v, m in group) / len(members)
        out.append((column, value, members))
    items = {int(layout.item[sample, column]) for column, _, _ in out}
    for row in rows:
        role, item = int(layout.role[sample, row[0]]), int(layout.item[sample, row[0]])
        if role == Role.TEXT or (role == Role.NEWLINE and item in items):
            out.append(row)
    return sorted(out, key=lambda row: row[0])


# ------------------------------------------------------------------ layout


def test_column_major_cells():
    layout = Layout.build([SampleLayout((Span(0, 1, 2, 3, order="column"),))], 6)
    assert list(zip(layout.row[0].tolist(), layout.column[0].tolist(), strict=True)) == [
        (0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ((Span(4, 1, 2, 2),), "leaves the sequence"),
        ((Span(0, 1, 2, 2), Span(3, 1, 1, 1)), "another run"),
        ((Span(0, 0, 2, 2),), "no token"),
    ],
)
def test_layouts_that_do_not_fit(spans, message):
    with pytest.raises(LayoutError, match=message):
        Layout.build([SampleLayout(spans)], 6)


def test_layouts_do_not_cover_padding():
    with pytest.raises(LayoutError, match="padding"):
        Layout.build([SampleLayout((Span(0, 1, 2, 2),))], 6, torch.tensor([[0, 1, 1, 1, 1, 1]]))
    with pytest.raises(LayoutError, match="does not fit"):
        Layout.build([SampleLayout(())], 6, torch.ones(1, 5))


def test_runs():
    assert contiguous_runs([True, False, True, True]) == [(0, 1), (2, 2)]
    assert contiguous_runs([]) == []
