"""A view over tensors that a test wrote, and a prefill that asks a reducer layer by layer.

No model runs: a reducer's arithmetic is tried on tens of views in the time of one forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tokenreduce.errors import ReducerError
from tokenreduce.plan import Plan
from tokenreduce.reducer import Needs, Reducer
from tokenreduce.view import PastEvent, View

AttentionOf = Callable[[str, int], Tensor]
"""(rows, layer) -> ``[heads, tokens]`` over the view's tokens."""

Cell = tuple[int, int, int, int]
"""(item, frame, row, column) of a visual token."""

ANYTHING = Needs(frozenset({"text", "last", "all"}), history=2, keys=True, next_layer=True)
"""The needs of a view that gives whatever it is asked for."""


class FakeView(View):
    """One sample after a layer. Reading what was not declared, or not given, is an error.

    Parameters
    ----------
    cells
        (item, frame, row, column) of each token, in chronological order.
    layer, num_layers
        As of :class:`tokenreduce.view.View`.
    size, index, total, since, events
        ``size``, ``index``, ``total``, ``layers_since_reduction`` and ``events`` of the view; by
        default nothing was merged or reduced before, and the first token is at position 7.
    attention
        ``(rows, layer) -> [heads, tokens]``; row indices are given as ``text``.
    keys, hidden
        ``[tokens, key_heads, head_dim]`` and ``[tokens, dim]``.
    text_hidden, text_embeddings
        ``[rows, dim]`` of the text rows.
    visual_embeddings
        ``[total, dim]``.
    needs
        What the reducer declared; by default everything.
    seed
        Of the generator, together with the layer.
    """

    def __init__(
        self,
        cells: Sequence[Cell] | Tensor,
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
        hidden: Tensor | None = None,
        text_hidden: Tensor | None = None,
        text_embeddings: Tensor | None = None,
        visual_embeddings: Tensor | None = None,
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
        self._keys, self._hidden = keys, hidden
        self._text_hidden, self._text_embeddings = text_hidden, text_embeddings
        self._visual_embeddings = visual_embeddings
        self._needs = needs or ANYTHING
        self._seed = seed

    def attention(
        self, rows: Any = "text", back: int = 0, heads: str = "mean", layer: str = "this"
    ) -> Tensor:
        """See :meth:`tokenreduce.view.View.attention`."""
        asked = rows if isinstance(rows, str) else "text"
        if layer == "next":
            declared, source = self._needs.next_layer, self.layer + 1
        else:
            read = {asked, "text"} if asked == "last" else {asked}
            declared = bool(read & self._needs.attention) and back <= self._needs.history
            source = self.layer - back
        if not declared:
            raise ReducerError(f"attention({rows!r}, back={back}, layer={layer!r}): not declared")
        if not 0 <= source < self.num_layers or self._attention is None:
            raise ReducerError(f"there is no attention of layer {source}")
        each = self._attention(asked, source)
        if heads == "each":
            return each
        return each.mean(0) if heads == "mean" else each.sum(0)

    @property
    def keys(self) -> Tensor:
        """See :attr:`tokenreduce.view.View.keys`."""
        if not self._needs.keys or self.layer < 0:
            raise ReducerError("keys were not declared, or there are none before the first layer")
        return _given(self._keys, "keys")

    @property
    def hidden(self) -> Tensor:
        """See :attr:`tokenreduce.view.View.hidden`."""
        return _given(self._hidden, "hidden states")

    @property
    def text_hidden(self) -> Tensor:
        """See :attr:`tokenreduce.view.View.text_hidden`."""
        return _given(self._text_hidden, "hidden states of text")

    @property
    def text_embeddings(self) -> Tensor:
        """See :attr:`tokenreduce.view.View.text_embeddings`."""
        return _given(self._text_embeddings, "embeddings of text")

    @property
    def visual_embeddings(self) -> Tensor:
        """See :attr:`tokenreduce.view.View.visual_embeddings`."""
        return _given(self._visual_embeddings, "embeddings of visual tokens")

    @property
    def generator(self) -> torch.Generator:
        """See :attr:`tokenreduce.view.View.generator`."""
        return torch.Generator().manual_seed(1_000_003 * self._seed + self.layer + 1)


def _given(tensor: Tensor | None, what: str) -> Tensor:
    if tensor is None:
        raise ReducerError(f"no {what} in this view")
    return tensor


def grid(frames: int, rows: int, columns: int, item: int = 0) -> list[Cell]:
    """Return the cells of a full grid, in order."""
    return [(item, f, r, c) for f in range(frames) for r in range(rows) for c in range(columns)]


@dataclass
class Prefill:
    """What a pretended prefill did.

    Attributes
    ----------
    total
        Visual tokens before any reduction.
    members
        For each token left, the originals that it stands for, first member first.
    held
        Visual tokens that each layer saw, and keeps in its cache.
    plans
        ``(layer, plan)`` of every reduction.
    """

    total: int
    members: list[list[int]]
    held: list[int] = field(default_factory=list)
    plans: list[tuple[int, Plan]] = field(default_factory=list)

    @property
    def img_memory(self) -> float:
        """Visual tokens in the cache over all layers, as a share of the unreduced."""
        return sum(self.held) / (len(self.held) * self.total)


def prefill(
    reducer: Reducer,
    cells: Sequence[Cell],
    num_layers: int,
    *,
    attention: AttentionOf | None = None,
    keys: Callable[[int], Tensor] | None = None,
    hidden: Callable[[int], Tensor] | None = None,
    text: Tensor | None = None,
    seed: int = 0,
) -> Prefill:
    """Ask ``reducer`` at its layers, as the core does, over tensors of the original tokens.

    Parameters
    ----------
    reducer, cells, num_layers, seed
        As of :class:`FakeView`.
    attention
        ``(rows, layer) -> [heads, original]``; a merged token has that of its first member.
    keys, hidden
        ``layer -> [original, heads, dim]`` and ``[original, dim]``; the same holds.
    text
        ``[rows, dim]`` hidden states and embeddings of the text rows.

    Raises
    ------
    ReducerError
        If a plan is not valid.
    """
    table = torch.as_tensor(cells, dtype=torch.long).reshape(-1, 4)
    done = Prefill(len(table), [[j] for j in range(len(table))])
    asked = reducer.acts_after(num_layers)
    events: tuple[PastEvent, ...] = ()
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
            since=layer - (events[-1].layer if events else -1),
            events=events,
            attention=attention and _of(attention, alive),
            keys=keys(layer)[alive] if keys and layer >= 0 else None,
            hidden=hidden(layer)[alive] if hidden else None,
            text_hidden=text,
            text_embeddings=text,
            visual_embeddings=hidden(-1) if hidden else None,
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
        if len(members) == len(done.members):
            continue
        events = (*events, PastEvent(layer, len(done.members), len(members), plan.note))
        done.members = members
        done.plans.append((layer, plan))
    return done


def _of(attention: AttentionOf, alive: Tensor) -> AttentionOf:
    return lambda rows, layer: attention(rows, layer)[:, alive]


def constant(tokens: int) -> AttentionOf:
    """Return attention that never changes: nothing shrinks, so reductions are only ever forced."""
    return lambda rows, layer: torch.ones(2, tokens)
