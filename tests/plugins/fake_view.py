"""A View over tensors that a test wrote, and a prefill that asks a reducer layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tokenreduce.errors import ReducerError
from tokenreduce.plan import Plan
from tokenreduce.reducer import Needs, Reducer
from tokenreduce.view import PastEvent, View

AttentionOf = Callable[[str, int], Tensor]
"""(rows, layer) -> ``[heads, tokens]`` over the view's tokens."""


class FakeView(View):
    """One sample after a layer. Reading what ``needs`` does not name is an error."""

    def __init__(
        self,
        cells: Sequence[tuple[int, int, int, int]] | Tensor,
        *,
        layer: int = 5,
        num_layers: int = 32,
        size: Tensor | Sequence[int] | None = None,
        index: Tensor | None = None,
        total: int | None = None,
        since: int | None = None,
        events: tuple[PastEvent, ...] = (),
        attention: AttentionOf | None = None,
        keys: Tensor | None = None,
        needs: Needs | None = None,
        seed: int = 0,
    ) -> None:
        table = torch.as_tensor(cells, dtype=torch.long).reshape(-1, 4)
        tokens = len(table)
        self.item, self.frame, self.row, self.column = table.unbind(1)
        self.size = torch.as_tensor(torch.ones(tokens) if size is None else size, dtype=torch.long)
        self.index = torch.arange(tokens) + 7 if index is None else index
        self.layer = layer
        self.num_layers = num_layers
        self.total = int(self.size.sum()) if total is None else total
        self.layers_since_reduction = layer + 1 if since is None else since
        self.events = events
        self._attention = attention
        self._keys = keys
        self._needs = needs or Needs(frozenset({"text", "last", "all"}), history=2, keys=True)
        self._seed = seed

    def attention(
        self,
        rows="text",
        back=0,
        heads="mean",
        layer="this",  # type: ignore[no-untyped-def]
    ) -> Tensor:
        if rows not in self._needs.attention or back > self._needs.history or layer != "this":
            raise ReducerError(f"attention({rows!r}, back={back}) was not declared")
        if self.layer - back < 0 or self._attention is None:
            raise ReducerError(f"no attention at layer {self.layer - back}")
        each = self._attention(rows, self.layer - back)
        if heads == "each":
            return each
        return each.mean(0) if heads == "mean" else each.sum(0)

    @property
    def keys(self) -> Tensor:
        if not self._needs.keys or self.layer < 0 or self._keys is None:
            raise ReducerError("keys were not declared, or there are none")
        return self._keys

    @property
    def hidden(self) -> Tensor:
        raise ReducerError("no hidden states in this view")

    text_hidden = text_embeddings = hidden

    @property
    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(1_000_003 * self._seed + self.layer)


def grid(frames: int, rows: int, columns: int, item: int = 0) -> list[tuple[int, int, int, int]]:
    """Cells of a full grid, in order."""
    return [(item, f, r, c) for f in range(frames) for r in range(rows) for c in range(columns)]


@dataclass
class Prefill:
    """What a pretended prefill did.

    Attributes
    ----------
    held
        Visual tokens that each layer saw, and keeps in its cache.
    plans
        ``(layer, plan)`` of every reduction.
    members
        For each token left, the originals that it stands for, first member first.
    """

    total: int
    members: list[list[int]]
    held: list[int] = field(default_factory=list)
    plans: list[tuple[int, Plan]] = field(default_factory=list)

    @property
    def img_memory(self) -> float:
        return sum(self.held) / (len(self.held) * self.total)


def prefill(
    reducer: Reducer,
    cells: Sequence[tuple[int, int, int, int]],
    num_layers: int,
    *,
    attention: AttentionOf | None = None,
    keys: Callable[[int], Tensor] | None = None,
    seed: int = 0,
) -> Prefill:
    """Ask ``reducer`` at its layers, as the core does, over tensors of the original tokens.

    ``attention(rows, layer)`` is ``[heads, original]`` and ``keys(layer)`` ``[original, heads,
    dim]``; a merged token has those of its first member.
    """
    table = torch.as_tensor(cells, dtype=torch.long).reshape(-1, 4)
    done = Prefill(len(table), [[j] for j in range(len(table))])
    asked = reducer.acts_after(num_layers)
    last = -1
    for layer in range(-1, num_layers):
        if layer >= 0:
            done.held.append(len(done.members))
        if layer not in asked or not done.members:
            continue
        alive = torch.tensor([each[0] for each in done.members])
        view = FakeView(
            table[alive],
            layer=layer,
            num_layers=num_layers,
            size=[len(each) for each in done.members],
            index=alive + 7,
            total=len(table),
            since=layer - last,
            attention=attention and (lambda rows, at, alive=alive: attention(rows, at)[:, alive]),
            keys=keys(layer)[alive] if keys and layer >= 0 else None,
            needs=reducer.needs(),
            seed=seed,
        )
        plan = reducer.plan(view)
        if plan is None:
            continue
        plan.validate(len(view), reducer.name)
        members: list[list[int]] = [[] for _ in range(plan.kept)]
        for token, slot in enumerate(plan.slot.tolist()):
            if slot >= 0:
                members[slot] += done.members[token]
        assert len(members) < len(done.members), "a plan that changes nothing should be None"
        done.members = members
        done.plans.append((layer, plan))
        last = layer
    return done


def constant(tokens: int) -> AttentionOf:
    """Attention that never changes: nothing shrinks, so that reductions are only ever forced."""
    return lambda rows, layer: torch.ones(2, tokens)
