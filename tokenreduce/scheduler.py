"""Asks reducers between decoder layers of one prefill, and keeps account of what is left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tokenreduce.apply import Tokens, apply_plans, grid_rows
from tokenreduce.attention import Probe, Want, over_heads, received
from tokenreduce.errors import ConfigError, ReducerError, TokenReduceError
from tokenreduce.layout import Layout, Role
from tokenreduce.masks import Sight
from tokenreduce.plan import Plan
from tokenreduce.reducer import Needs, Reducer
from tokenreduce.sample_view import SampleView
from tokenreduce.view import Heads, PastEvent, Rows, View


@dataclass(frozen=True, slots=True)
class Stage:
    """One reducer with what it asked for on this model."""

    reducer: Reducer
    layers: frozenset[int]
    needs: Needs


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One reduction as it happened, in tensors; the trace is made of it when it is read."""

    layer: int
    stage: int
    sample: int
    before: int
    plan: Plan
    positions: Tensor
    owner: Tensor
    plan_seconds: float
    apply_seconds: float


def stages(reducers: Sequence[Reducer], num_layers: int, first_layer: int) -> tuple[Stage, ...]:
    """Resolve the layers of ``reducers`` on a model.

    Parameters
    ----------
    reducers
        In the order in which they act where two meet on a layer.
    num_layers
        Decoder layers of the model.
    first_layer
        First layer after which its adapter lets tokens be reduced.

    Raises
    ------
    ConfigError
        If a layer is before ``first_layer``, the last one, or outside the model.
    """
    resolved = []
    for reducer in reducers:
        try:
            layers = frozenset(reducer.acts_after(num_layers))
        except ConfigError as error:
            said = str(error).removeprefix(f"{reducer.name}: ")
            raise ConfigError(f"reducer '{reducer.name}' on this model: {said}") from None
        # After the last layer nothing is left to compute or to cache.
        wrong = sorted(k for k in layers if not first_layer <= k < num_layers - 1)
        if wrong:
            raise ConfigError(
                f"reducer '{reducer.name}' asks to act after layer {wrong[0]}, but on this model "
                f"tokens can be reduced after layers {first_layer} to {num_layers - 2} only."
            )
        resolved.append(Stage(reducer, layers, reducer.needs()))
    return tuple(resolved)


class Surroundings(Protocol):
    """What a prefill asks of the forward that it is part of."""

    def earlier(self, layer: int) -> Tensor:
        """Return ``[batch, past]`` bool: keys that a layer holds already, false at padding."""

    def sight(self, layer: int) -> Sight | None:
        """Return what a layer's queries see; None: every key up to themselves."""

    def earlier_keys(self, layer: int) -> Tensor | None:
        """Return ``[batch, key_heads, past, head_dim]``: those keys; None if there are none."""

    def rope_at(self, layer: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos and sin ``[batch, left, head_dim]`` as ``layer`` would be given them."""


@dataclass(slots=True)
class Prefill:
    """One forward that may be reduced: its tokens, what was seen of it and what was done to it.

    Parameters
    ----------
    stages
        Reducers to ask.
    layers
        The decoder's layers.
    layout
        Where the forward's visual tokens sit, on the decoder's device.
    tokens
        What is left of them.
    token_ids
        Per sample, bytes that stand for its unpadded tokens, for seeding.
    embeddings
        ``[batch, tokens, dim]`` input embeddings.
    rope
        ``(cos, sin)`` as the layer about to run is given them, each ``[batch or 1, tokens,
        head_dim]``; layers of another kind may be given others.
    seed
        The run's seed.
    probe
        Where queries and keys arrive.
    surroundings
        The forward that this is part of.
    offset
        Tokens of earlier turns on the same cache; original positions count them.
    """

    stages: tuple[Stage, ...]
    layers: Sequence[nn.Module]
    layout: Layout
    tokens: Tokens
    token_ids: list[bytes]
    embeddings: Tensor
    rope: tuple[Tensor, Tensor]
    seed: int
    probe: Probe
    surroundings: Surroundings
    offset: int = 0
    records: list[Record] = field(default_factory=list)
    events: dict[tuple[int, int], tuple[PastEvent, ...]] = field(default_factory=dict)
    seen: dict[int, Tokens] = field(default_factory=dict)
    grid_counts: list[list[int]] = field(default_factory=list)
    totals: list[int] = field(default_factory=list)
    _rope_left: dict[int, tuple[Tensor, tuple[Tensor, Tensor]]] = field(default_factory=dict)
    _text_columns: list[Tensor] = field(default_factory=list)
    _rows_left: list[Tensor] = field(default_factory=list)
    _received: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)

    def before_layer(self, layer: int, hidden: Tensor) -> Tensor:
        """Ask the reducers of the layer before ``layer``, then say what to capture of ``layer``.

        Parameters
        ----------
        layer
            Index of the layer about to run.
        hidden
            ``[batch, left, dim]`` its input.

        Returns
        -------
        Tensor
            Its input after reduction, ``[batch, left', dim]``.
        """
        if not self.totals:
            self.totals = self._counts()
        for number, stage in enumerate(self.stages):
            if layer - 1 in stage.layers:
                hidden = self._ask(number, stage, layer - 1, hidden)
        self._forget(layer)
        self.seen[layer] = self.tokens
        self.grid_counts.append(self._counts())
        self.probe.want = self._want(layer)
        return hidden

    def rope_left(self) -> tuple[Tensor, Tensor]:
        """Return cos and sin ``[batch, left, head_dim]`` of the tokens that are left."""
        cos, sin = self.rope
        if id(cos) not in self._rope_left:
            index = self.tokens.index.clamp(min=0)
            left = (_rows(cos, index), _rows(sin, index))
            self._rope_left[id(cos)] = (cos, left)  # kept, so that its id is not given again
        return self._rope_left[id(cos)][1]

    def text_columns(self, sample: int) -> Tensor:
        """Return the columns of a sample's text rows: text after its last visual token.

        The last token alone, if no text follows.
        """
        if not self._text_columns:
            for row in self.layout.role:
                alive = (row != int(Role.PAD)).nonzero().squeeze(1)
                visual = (row > int(Role.TEXT)).nonzero().squeeze(1)
                start = int(visual[-1]) + 1 if visual.numel() else 0
                after = alive[alive >= start]
                self._text_columns.append(after if after.numel() else alive[-1:])
        return self._text_columns[sample]

    def _ask(self, number: int, stage: Stage, layer: int, hidden: Tensor) -> Tensor:
        started = time.perf_counter()
        plans: list[Plan | None] = []
        before: list[int] = []
        for sample in range(self.layout.batch):
            rows, columns = grid_rows(self.tokens, self.layout, sample)
            before.append(int(columns.numel()))
            plan = None
            if columns.numel():
                view = SampleView(self, number, layer, sample, hidden, rows, columns)
                plan = _plan(stage.reducer, view, sample)
            if plan is not None and plan.kept == before[-1]:
                plan = None
            plans.append(plan)
        if not any(plan is not None for plan in plans):
            return hidden
        planned = time.perf_counter()
        hidden, self.tokens = apply_plans(hidden, self.tokens, self.layout, plans)
        applied = time.perf_counter()
        self._rope_left, self._rows_left = {}, []
        for sample, plan in enumerate(plans):
            if plan is None:
                continue
            event = PastEvent(layer, before[sample], plan.kept, plan.note)
            self.events[number, sample] = (*self.events.get((number, sample), ()), event)
            self.records.append(
                Record(
                    layer,
                    number,
                    sample,
                    before[sample],
                    plan,
                    grid_rows(self.tokens, self.layout, sample)[1],
                    self.tokens.owner[sample],
                    planned - started,
                    applied - planned,
                )
            )
        return hidden

    def _text_rows(self) -> list[Tensor]:
        """Return, per sample, the rows of :meth:`text_columns` among the tokens that are left."""
        if not self._rows_left:
            samples = range(self.layout.batch)
            self._rows_left = [self.tokens.rows_of(b, self.text_columns(b)) for b in samples]
        return self._rows_left

    def _counts(self) -> list[int]:
        """Return, per sample, how many grid tokens are left."""
        return [len(grid_rows(self.tokens, self.layout, b)[1]) for b in range(self.layout.batch)]

    def _want(self, layer: int) -> Want | None:
        asked: set[str] = set()
        for stage in self.stages:
            needs = stage.needs
            if any(layer + back in stage.layers for back in range(needs.history + 1)):
                asked |= {*needs.attention, *(["keys"] if needs.keys else [])}
        if not asked:
            return None
        earlier = self.surroundings.earlier(layer)
        padded = self.tokens.padded or (earlier.shape[1] > 0 and not bool(earlier.all()))
        rows = self._text_rows() if asked & {"text", "last"} else []
        return Want(
            layer,
            self.layers[layer],
            rows,
            self.tokens.index,
            "all" in asked,
            earlier,
            self.surroundings.sight(layer),
            padded,
        )

    def _forget(self, layer: int) -> None:
        """Let go of layers that no reducer can look back to."""
        oldest = layer - 1 - max((stage.needs.history for stage in self.stages), default=0)
        for kept in (self.probe.captures, self.seen):
            for gone in [k for k in kept if k < oldest]:
                del kept[gone]
        self._received = {key: value for key, value in self._received.items() if key[0] >= oldest}

    def received(
        self, layer: int, sample: int, rows: Rows | tuple[int, ...], heads: Heads = "each"
    ) -> Tensor:
        """Return ``[heads, tokens]`` or ``[tokens]`` float32: weight per token of ``layer``."""
        key = (layer, sample, rows, heads)
        if key not in self._received:
            if heads == "each":
                weight = self._compute_received(layer, sample, rows)
            else:
                weight = over_heads(self.received(layer, sample, rows), heads)
            self._received[key] = weight
        return self._received[key]

    def _compute_received(self, layer: int, sample: int, rows: Rows | tuple[int, ...]) -> Tensor:
        capture = self.probe.of(layer, self.layers[layer])
        if rows == "all":
            assert capture.everything is not None
            return capture.everything[sample]
        index = self.seen[layer].index[sample].to(capture.key.device)
        query = capture.rows[sample]
        count = query.shape[1]
        if rows == "text":
            chosen = torch.arange(count)
        else:
            chosen = torch.tensor([count - 1] if rows == "last" else sorted(rows))
            query = query.index_select(1, chosen.to(query.device))
        asked = self.text_columns(sample)[chosen].to(index.device)
        earlier = capture.earlier[sample].to(index.device)
        sight = capture.sight and capture.sight.of_sample(sample)
        # Text rows are the last of the tokens: padding aside, their place says what they see.
        known = sight is None and not capture.padded
        seen = capture.key.shape[2] - count + 1 + chosen if known else None
        return _weights(
            query, capture.key[sample], index, asked, capture.scaling, earlier, sight, seen
        )

    def peeked(self, layer: int, sample: int, hidden: Tensor, rows: Any) -> Tensor:
        """Return ``[heads, tokens]``: weight that ``layer`` would give, were it to run next."""
        index = self.tokens.index[sample].to(hidden.device)
        alive = (index >= 0).nonzero().squeeze(1)
        cos, sin = (
            part.expand(hidden.shape[0], -1, -1).to(hidden.device)[sample : sample + 1, alive]
            for part in self.surroundings.rope_at(layer, hidden)
        )
        query, key, scaling = self.probe.peek(
            self.layers[layer], hidden[sample : sample + 1, alive], (cos, sin)
        )
        keys, held = key[0], self.surroundings.earlier_keys(layer)
        if held is not None:
            keys = torch.cat([held[sample].to(keys.device), keys], dim=1)
        columns = index[alive]
        asked = columns if rows == "all" else self.text_columns(sample).to(columns.device)
        if rows == "last":
            asked = asked[-1:]
        elif rows not in ("text", "all"):
            asked = asked[torch.tensor(rows, device=asked.device)]
        where = torch.searchsorted(columns, asked)  # ascending: padding has been left out
        earlier = self.surroundings.earlier(layer)[sample].to(hidden.device)
        asking = query[0].index_select(1, where)
        sight = self.surroundings.sight(layer)
        sight = sight and sight.of_sample(sample)
        weights = _weights(asking, keys, columns, asked, scaling, earlier, sight)
        full = torch.zeros(weights.shape[0], index.numel(), device=weights.device)
        full[:, alive] = weights
        return full


def _weights(
    query: Tensor,
    key: Tensor,
    index: Tensor,
    asked: Tensor,
    scaling: float,
    earlier: Tensor,
    sight: Sight | None,
    seen: Tensor | None = None,
) -> Tensor:
    """Score rows ``asked`` against all keys: earlier turns are seen whole, padding never.

    Where nothing is padded ``seen`` ``[rows]``, on the CPU, may say how many keys each row sees.
    """
    if seen is not None:
        return received(query, key, None, scaling, seen)[:, earlier.numel() :]
    alive = index >= 0

    def visible(part: slice) -> Tensor:
        now = alive & (index <= asked[part, None])
        return torch.cat([earlier.expand(now.shape[0], -1), now], dim=1)

    rule = visible if sight is None else sight.on(index, asked)
    return received(query, key, rule, scaling)[:, earlier.numel() :]


def _plan(reducer: Reducer, view: View, sample: int) -> Plan | None:
    """Ask a reducer; whatever it raises is named with the reducer, layer and sample."""
    try:
        with torch.no_grad():
            plan = reducer.plan(view)
        if plan is not None:
            if not isinstance(plan, Plan):
                raise ReducerError(f"plan() returned {type(plan).__name__}: return a Plan or None.")
            plan.validate(len(view), reducer.name)
    except TokenReduceError:
        raise
    except Exception as error:
        raise ReducerError(
            f"reducer '{reducer.name}' failed after layer {view.layer} on sample {sample}: "
            f"{type(error).__name__}: {error}"
        ) from error
    return plan


def _rows(values: Tensor, index: Tensor) -> Tensor:
    index = index.to(values.device)
    if index.shape[0] == 1:
        return values.index_select(1, index[0])
    values = values.expand(index.shape[0], -1, -1)
    return values.gather(1, index.unsqueeze(2).expand(-1, -1, values.shape[2]))
