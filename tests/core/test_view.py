"""What a view gives beside attention, against what the bare model is given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import Field

import tokenreduce
from tokenreduce import Plan, Reducer, View
from tokenreduce.testing.tiny import VIDEO, batch, ragged, single, tiny_onevision, video_ids


class Reader(Reducer):
    """Writes down embeddings, and thins the visual tokens out on the way."""

    name = "reader"
    seen: list[Any] = Field(default_factory=list)

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        return (-1, 1, 3)

    def plan(self, view: View) -> Plan | None:
        self.seen.append((view.layer, len(view), view.total, view.visual_embeddings, view.hidden))
        keep = torch.arange(len(view)) % 3 != 1
        return Plan.where(keep) if view.layer < 1 else Plan.groups(torch.arange(len(view)) // 2)


@pytest.mark.parametrize("inputs", [single, ragged])
def test_visual_embeddings_are_those_of_all_original_tokens_after_any_layer(inputs):
    model, reader, given = tiny_onevision(), Reader(seen=[]), []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    batch = inputs()
    with torch.no_grad():
        model(**batch)
    hook.remove()
    with torch.no_grad(), tokenreduce.reduce(model, reader):
        model(**batch)
    expected = []
    for sample, row in enumerate(batch["input_ids"].tolist()):
        # A run of placeholders ends with the newline of its video, which has no grid cell.
        grid = [p for p, token in enumerate(row) if token == VIDEO and row[p + 1] == VIDEO]
        if grid:
            expected.append(given[0][sample, grid])
    assert len(reader.seen) == 3 * len(expected)
    for order, (layer, left, total, embeddings, hidden) in enumerate(reader.seen):
        original = expected[order % len(expected)]
        assert total == len(original)
        assert torch.equal(embeddings, original)
        assert (left == total) == (layer == -1)
        assert torch.equal(hidden, original) == (layer == -1)


def test_cells_and_earlier_tokens_by_hand():
    """Over a hole in the second frame, the third frame's token looks back to the first."""

    class Look(Reducer):
        name = "look"
        seen: list[Any] = Field(default_factory=list)

        def acts_after(self, num_layers: int) -> tuple[int, ...]:
            return (0, 1)

        def plan(self, view: View) -> Plan | None:
            self.seen.append((view.cell.tolist(), view.earlier.tolist()))
            if view.layer:
                return None
            return Plan.where(torch.tensor([j != 5 for j in range(len(view))]))

    look = Look(seen=[])
    inputs = batch([[1, *video_ids(3), 2, *video_ids(3), 5]], 2, 3)
    tiny = tiny_onevision()
    with torch.no_grad(), tokenreduce.reduce(tiny, look):
        tiny(**inputs)
    cell, earlier = look.seen[0]
    assert cell == [0, 1, 2, 3] * 3 + [4, 5, 6, 7] * 3
    assert earlier == [-1] * 4 + list(range(8)) + [-1] * 4 + list(range(12, 20))
    _, earlier = look.seen[1]
    # Token 5 (frame 1, cell 1) is gone: the one after it, now token 8, follows token 1.
    assert earlier[:11] == [-1, -1, -1, -1, 0, 2, 3, 4, 1, 5, 6]
