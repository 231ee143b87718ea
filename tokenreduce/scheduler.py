"""Asks reducers between decoder layers of one prefill, and keeps account of what is left."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tokenreduce.apply import Tokens, apply_plans, grid_rows
from tokenreduce.attention import Probe, Want, received
from tokenreduce.errors import ConfigError, ReducerError, TokenReduceError
from tokenreduce.layout import Layout, Role
from tokenreduce.plan import Plan
from tokenreduce.reducer import Needs, Reducer
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
        If a layer lies outside the model or before ``first_layer``.
    """
    resolved = []
    for reducer in reducers:
        try:
            layers = frozenset(reducer.acts_after(num_layers))
        except ConfigError as error:
            said = str(error).removeprefix(f"{reducer.name}: ")
            raise ConfigError(f"reducer '{reducer.name}' on this model: {said}") from None
        wrong = sorted(k for k in layers if not first_layer <= k < num_layers)
        if wrong:
            raise ConfigError(
                f"reducer '{reducer.name}' asks to act after layer {wrong[0]}, but on this model "
                f"tokens can be reduced after layers {first_layer} to {num_layers - 1} only."
            )
        resolved.append(Stage(reducer, layers, reducer.needs()))
    return tuple(resolved)


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
        ``(cos, sin)``, each ``[batch or 1, tokens, head_dim]``.
    seed
        The run's seed.
    probe
        Where queries and keys arrive.
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
    offset: int = 0
    records: list[Record] = field(default_factory=list)
    seen: dict[int, Tokens] = field(default_factory=dict)
    grid_counts: list[list[int]] = field(default_factory=list)
    _counts: list[int] = field(default_factory=list)
    _rope_left: tuple[Tensor, Tensor] | None = None
    _text_columns: list[Tensor] = field(default_factory=list)
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
        if not self._counts:
            self._counts = self._count()
        for number, stage in enumerate(self.stages):
            if layer - 1 in stage.layers:
                hidden = self._ask(number, stage, layer - 1, hidden)
        self._forget(layer)
        self.seen[layer] = self.tokens
        self.grid_counts.append(self._counts)
        self.probe.want = self._want(layer)
        return hidden

    def rope_left(self) -> tuple[Tensor, Tensor]:
        """Return cos and sin ``[batch, left, head_dim]`` of the tokens that are left."""
        if self._rope_left is None:
            index = self.tokens.index.clamp(min=0)
            self._rope_left = (_rows(self.rope[0], index), _rows(self.rope[1], index))
        return self._rope_left

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
        self._counts, self._rope_left = self._count(), None
        for sample, plan in enumerate(plans):
            if plan is None:
                continue
            _, columns = grid_rows(self.tokens, self.layout, sample)
            self.records.append(
                Record(
                    layer,
                    number,
                    sample,
                    before[sample],
                    plan,
                    columns,
                    self.tokens.owner[sample],
                    planned - started,
                    applied - planned,
                )
            )
        return hidden

    def _count(self) -> list[int]:
        batch = range(self.layout.batch)
        return [int(grid_rows(self.tokens, self.layout, b)[1].numel()) for b in batch]

    def _want(self, layer: int) -> Want | None:
        capture, everything = False, False
        for stage in self.stages:
            needs = stage.needs
            if any(layer + back in stage.layers for back in range(needs.history + 1)):
                capture |= bool(needs.attention) or needs.keys
                everything |= "all" in needs.attention
        if not capture:
            return None
        rows = [self.tokens.rows_of(b, self.text_columns(b)) for b in range(self.layout.batch)]
        return Want(layer, rows, self.tokens.index, everything)

    def _forget(self, layer: int) -> None:
        """Let go of layers that no reducer can look back to."""
        oldest = layer - 1 - max((stage.needs.history for stage in self.stages), default=0)
        for gone in [k for k in self.probe.captures if k < oldest]:
            del self.probe.captures[gone]
            del self.seen[gone]
        self._received = {key: value for key, value in self._received.items() if key[0] >= oldest}

    def received(self, layer: int, sample: int, rows: Rows | tuple[int, ...]) -> Tensor:
        """Return ``[heads, tokens]`` float32: weight per token that ran through ``layer``."""
        key = (layer, sample, rows)
        if key not in self._received:
            self._received[key] = self._compute_received(layer, sample, rows)
        return self._received[key]

    def _compute_received(self, layer: int, sample: int, rows: Rows | tuple[int, ...]) -> Tensor:
        capture = self.probe.captures[layer]
        if rows == "all":
            assert capture.everything is not None
            return capture.everything[sample]
        index = self.seen[layer].index[sample].to(capture.key.device)
        query, asked = capture.rows[sample], self.text_columns(sample).to(index.device)
        if rows == "last":
            query, asked = query[:, -1:], asked[-1:]
        elif rows != "text":
            chosen = torch.tensor(rows, device=query.device)
            query, asked = query.index_select(1, chosen), asked[chosen]
        return self._weights(
            query, capture.key[sample], index, asked, capture.scaling, capture.past
        )

    def _weights(
        self,
        query: Tensor,
        key: Tensor,
        index: Tensor,
        asked: Tensor,
        scaling: float,
        past: int,
    ) -> Tensor:
        """Score rows ``asked`` against all keys: earlier turns are seen whole, padding never."""
        alive = index >= 0

        def visible(part: slice) -> Tensor:
            now = alive & (index <= asked[part, None])
            earlier = torch.ones(now.shape[0], past, dtype=torch.bool, device=now.device)
            return torch.cat([earlier, now], dim=1)

        return received(query, key, visible, scaling)[:, past:]

    def peeked(self, layer: int, sample: int, hidden: Tensor, rows: Any) -> Tensor:
        """Return ``[heads, tokens]``: weight that ``layer`` would give, were it to run next."""
        index = self.tokens.index[sample]
        alive = (index >= 0).nonzero().squeeze(1)
        cos, sin = self.rope_left()
        with torch.no_grad():
            query, key, scaling = self.probe.peek(
                self.layers[layer],
                hidden[sample : sample + 1, alive],
                (cos[sample : sample + 1, alive], sin[sample : sample + 1, alive]),
            )
        columns = index[alive]
        asked = columns if rows == "all" else self.text_columns(sample)
        if rows == "last":
            asked = asked[-1:]
        elif rows not in ("text", "all"):
            asked = asked[torch.tensor(rows, device=asked.device)]
        where = torch.searchsorted(columns, asked)  # ascending: padding has been left out
        weights = self._weights(query[0].index_select(1, where), key[0], columns, asked, scaling, 0)
        full = torch.zeros(weights.shape[0], index.numel(), device=weights.device)
        full[:, alive] = weights
        return full


class SampleView(View):
    """The view of one sample of a running prefill."""

    def __init__(
        self,
        prefill: Prefill,
        stage: int,
        layer: int,
        sample: int,
        hidden: Tensor,
        rows: Tensor,
        columns: Tensor,
    ) -> None:
        self._prefill, self._stage, self._sample = prefill, stage, sample
        self._hidden, self._rows = hidden, rows
        layout = prefill.layout
        self.layer, self.num_layers = layer, len(prefill.layers)
        self._columns = columns
        self.index = columns + prefill.offset
        self.item = layout.item[sample][columns]
        self.frame = layout.frame[sample][columns]
        self.row = layout.row[sample][columns]
        self.column = layout.column[sample][columns]
        self.size = prefill.tokens.size[sample][columns]
        self.total = int((layout.role[sample] == int(Role.GRID)).sum())
        own = [r for r in prefill.records if r.stage == stage and r.sample == sample]
        self.events = tuple(PastEvent(r.layer, r.before, r.plan.kept, r.plan.note) for r in own)
        self.layers_since_reduction = layer - own[-1].layer if own else layer + 1

    @property
    def _needs(self) -> Needs:
        return self._prefill.stages[self._stage].needs

    @property
    def _name(self) -> str:
        return self._prefill.stages[self._stage].reducer.name

    def attention(
        self,
        rows: Rows | Sequence[int] = "text",
        back: int = 0,
        heads: Heads = "mean",
        layer: Literal["this", "next"] = "this",
    ) -> Tensor:
        """See :meth:`tokenreduce.view.View.attention`."""
        asked = rows if isinstance(rows, str) else tuple(int(row) for row in rows)
        if layer == "next":
            self._require(self._needs.next_layer, "next_layer=True")
            if self.layer + 1 >= self.num_layers:
                raise ReducerError(f"reducer '{self._name}' asks for the layer after the last one.")
            weight = self._prefill.peeked(self.layer + 1, self._sample, self._hidden, asked)
            per_head = weight[:, self._rows]
        else:
            per_head = self._history(asked, back)
        if heads == "each":
            return per_head
        return per_head.mean(0) if heads == "mean" else per_head.sum(0)

    def _history(self, rows: Rows | tuple[int, ...], back: int) -> Tensor:
        needs = self._needs
        declared = rows if isinstance(rows, str) else "text"
        covered = declared in needs.attention or (declared == "last" and "text" in needs.attention)
        self._require(covered, f"attention={{'{declared}'}}")
        self._require(0 <= back <= needs.history, f"history={back}")
        source = self.layer - back
        if source < 0:
            raise ReducerError(
                f"reducer '{self._name}' asks after layer {self.layer} for the attention of layer "
                f"{source}, which does not exist: look at view.layer first."
            )
        weight = self._prefill.received(source, self._sample, rows)
        # Tokens merged since then count with the token that carries them now.
        then = self._prefill.seen[source].index[self._sample].to(weight.device)
        owner = self._prefill.tokens.owner[self._sample].to(weight.device)
        carrier = owner[then.clamp(min=0)].masked_fill(then < 0, -1)
        mine = self._columns.to(weight.device)
        where = torch.searchsorted(mine, carrier).clamp(max=mine.numel() - 1)
        match = mine[where] == carrier
        total = torch.zeros(weight.shape[0], mine.numel(), device=weight.device)
        return total.index_add_(1, where[match], weight[:, match]).to(self.index.device)

    @property
    def keys(self) -> Tensor:
        """See :attr:`tokenreduce.view.View.keys`."""
        self._require(self._needs.keys, "keys=True")
        if self.layer < 0:
            raise ReducerError(f"reducer '{self._name}' asks for keys before the first layer.")
        capture = self._prefill.probe.captures[self.layer]
        rows = self._prefill.seen[self.layer].rows_of(self._sample, self._columns)
        where = rows.to(capture.key.device) + capture.past
        return capture.key[self._sample].index_select(1, where).transpose(0, 1)

    @property
    def hidden(self) -> Tensor:
        """See :attr:`tokenreduce.view.View.hidden`."""
        return self._hidden[self._sample].index_select(0, self._rows.to(self._hidden.device))

    @property
    def text_hidden(self) -> Tensor:
        """See :attr:`tokenreduce.view.View.text_hidden`."""
        columns = self._prefill.text_columns(self._sample)
        where = self._prefill.tokens.rows_of(self._sample, columns)
        return self._hidden[self._sample].index_select(0, where.to(self._hidden.device))

    @property
    def text_embeddings(self) -> Tensor:
        """See :attr:`tokenreduce.view.View.text_embeddings`."""
        columns = self._prefill.text_columns(self._sample)
        embeddings = self._prefill.embeddings[self._sample]
        return embeddings.index_select(0, columns.to(embeddings.device))

    @property
    def generator(self) -> torch.Generator:
        """See :attr:`tokenreduce.view.View.generator`."""
        digest = hashlib.blake2b(self._prefill.token_ids[self._sample], digest_size=8)
        digest.update(f"{self._prefill.seed}/{self.layer}".encode())
        generator = torch.Generator()
        generator.manual_seed(int.from_bytes(digest.digest(), "little") >> 1)
        return generator

    def _require(self, declared: bool, what: str) -> None:
        if not declared:
            raise ReducerError(
                f"reducer '{self._name}' reads what it did not declare: return Needs({what}) from "
                "needs()."
            )


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
