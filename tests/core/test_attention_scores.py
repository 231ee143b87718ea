"""Scores from the probe against the model's own eager attention maps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import Field
from torch import Tensor

import tokenreduce
from tokenreduce import Plan, Reducer, View
from tokenreduce.attention import received
from tokenreduce.reducer import Needs
from tokenreduce.testing.oracle import masked
from tokenreduce.testing.tiny import ragged, single, tiny_onevision


class Spy(Reducer):
    """Writes down what it sees after every layer; drops the given share of tokens on the way."""

    name = "spy"
    seen: list[Any] = Field(default_factory=list)
    drop_at: tuple[int, ...] = ()

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        return tuple(range(num_layers - 1))  # nothing is left to do after the last

    def needs(self) -> Needs:
        return Needs(frozenset({"text", "last", "all"}), history=2, keys=True, next_layer=True)

    def plan(self, view: View) -> Plan | None:
        received = {}
        for rows in ("text", "last", "all", (1,)):
            for back in range(min(2, view.layer) + 1):
                received[rows, back] = view.attention(rows, back, heads="each")
        if view.layer + 1 < view.num_layers:
            received["next"] = view.attention("text", heads="each", layer="next")
        self.seen.append((view.layer, view.index.clone(), received, view.keys, view.hidden))
        if view.layer in self.drop_at:
            return Plan.where(torch.arange(len(view)) % 3 != 1)
        return None


def maps_of(model: Any, inputs: dict[str, Tensor], held: list[list[list[int]]]) -> Any:
    """Return eager maps ``[layer][batch, heads, query, key]`` of the bare masked model."""
    length = inputs["input_ids"].shape[1]
    with torch.no_grad(), masked(model, held, length):
        return model(**inputs, output_attentions=True, output_hidden_states=True)


def text_rows(row: Tensor, mask: Tensor) -> list[int]:
    """Return positions after the last visual token, read off the ids."""
    visual = [p for p, token in enumerate(row.tolist()) if token == 121]
    start = visual[-1] + 1 if visual else 0
    return [p for p in range(start, len(row)) if mask[p]]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("drop_at", [(), (1, 3)])
@pytest.mark.parametrize("inputs", [single, ragged])
def test_scores_equal_eager_attention(inputs, drop_at, key_heads, attention):
    model = tiny_onevision(attention=attention, key_heads=key_heads)
    spy = Spy(seen=[], drop_at=drop_at)
    batch = inputs()
    with torch.no_grad(), tokenreduce.reduce(model, spy) as run:
        model(**batch)
    eager = tiny_onevision(attention="eager", key_heads=key_heads)
    held = run.trace.kept_positions()
    reference = maps_of(eager, batch, held)
    samples = [s for s, total in enumerate(run.trace.visual_tokens) if total]
    for order, (layer, index, seen, keys, hidden) in enumerate(spy.seen):
        sample = samples[order % len(samples)]
        rows = text_rows(batch["input_ids"][sample], batch["attention_mask"][sample])
        alive = set(held[layer][sample])
        queries = {
            "text": rows,
            "last": rows[-1:],
            (1,): rows[1:2],
            "all": sorted(alive),
        }
        for key, ours in seen.items():
            if key == "next":
                continue
            asked, back = key
            source = layer - back
            chosen = queries[asked] if asked != "all" else sorted(held[source][sample])
            expected = reference.attentions[source][sample][:, chosen][:, :, index].sum(1)
            # Weights are summed over query rows: the bound is on one row's share.
            assert (ours - expected).abs().max() <= 1e-5 * len(chosen), (layer, key)
        assert torch.allclose(
            hidden, reference.hidden_states[layer + 1][sample][index], atol=1e-4
        ) or (layer + 1 == len(reference.hidden_states) - 1)
        assert keys.shape == (len(index), key_heads, 8)
        if "next" in seen and layer not in drop_at:
            expected = reference.attentions[layer + 1][sample][:, rows][:, :, index].sum(1)
            assert (seen["next"] - expected).abs().max() <= 1e-5 * len(rows), (layer, "next")


class LastRow(Spy):
    name = "last_row"

    def plan(self, view: View) -> Plan | None:
        text, last = (view.attention(rows, heads="each") for rows in ("text", "last"))
        self.seen.append((text, last, view.text_hidden))
        return None


def test_without_text_after_vision_the_last_row_asks():
    inputs = {k: v[:, :-5] if v.dim() == 2 else v for k, v in single().items()}
    spy = LastRow(seen=[])
    model = tiny_onevision()
    with torch.no_grad(), tokenreduce.reduce(model, spy):
        model(**inputs)
    for text, last, hidden in spy.seen:
        assert torch.equal(text, last)
        assert len(hidden) == 1


def test_heads_are_summed_or_averaged():
    class Heads(Spy):
        name = "heads"

        def plan(self, view: View) -> Plan | None:
            self.seen.append([view.attention("text", heads=h) for h in ("each", "sum", "mean")])
            return None

    spy = Heads(seen=[])
    model = tiny_onevision()
    with torch.no_grad(), tokenreduce.reduce(model, spy):
        model(**single())
    for each, total, mean in spy.seen:
        assert torch.allclose(each.sum(0), total)
        assert torch.allclose(total / 4, mean)


@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("counts", [range(31, 51), [3, 3, 7, 30, 31, 50, 50], [50] * 9])
def test_rows_see_as_many_of_the_first_keys_as_they_are_told(key_heads, counts):
    """Against softmax over the keys that each row sees, row by row; chunks are of 8 rows."""
    seen = list(counts)
    query, key = torch.randn(4, len(seen), 8), torch.randn(key_heads, 50, 8)
    expected = torch.zeros(4, 50)
    for head in range(4):
        for row, count in enumerate(seen):
            own = key[head * key_heads // 4, :count]
            expected[head, :count] += (own @ query[head, row] * 0.3).softmax(0)
    found = received(query, key, None, 0.3, torch.tensor(seen))
    assert (found - expected).abs().max() <= 1e-5
