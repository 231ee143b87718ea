"""Turns the tensors that a finished prefill left behind into a trace."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import Tensor

from tokenreduce.cache import Held
from tokenreduce.cost import Cost, DecoderShape, kv_bytes, prefill_cost
from tokenreduce.course import Record
from tokenreduce.layout import Layout, Role
from tokenreduce.trace import Cell, Event, Segment, Trace


@dataclass(frozen=True, slots=True)
class Finished:
    """What is kept of a prefill once it has run; no hidden states, no keys.

    Attributes
    ----------
    variant
        Which of the session's variants it is.
    names
        Names of the reducers, by their number in the records.
    shape
        Sizes of the decoder.
    element_bytes
        Bytes of one element of the cache.
    layout
        Where the forward's visual tokens sat.
    records
        Reductions in order.
    grid_counts
        ``[layer][sample]``: grid tokens that ran through the layer.
    held
        Per layer what its cache held after the prefill; None: everything in ``full``.
    full
        All positions, earlier turns included; -1 at padding.
    last
        ``[batch, left]`` columns of this forward that ran through the last layer; -1 at padding.
    past
        Tokens before the forward's first, dropped ones included.
    logits
        How many of the last rows the model made logits for; 0: all.
    """

    variant: int
    names: tuple[str, ...]
    shape: DecoderShape
    element_bytes: int
    layout: Layout
    records: tuple[Record, ...]
    grid_counts: tuple[list[int], ...]
    held: tuple[Held | None, ...]
    full: Tensor
    last: Tensor
    past: int
    logits: int

    def logit_positions(self) -> list[list[int]]:
        """Return, per sample, the position of each row that left the last layer; -1 = padding."""
        rows = self.last[:, -self.logits :] if self.logits else self.last
        return _ints(rows.masked_fill(rows < 0, -1 - self.past) + self.past)


@dataclass(frozen=True, slots=True)
class Totals:
    """The sums of a prefill; fields as in :class:`tokenreduce.trace.Trace`."""

    visual_tokens: tuple[int, ...]
    tokens_per_layer: tuple[tuple[int, ...], ...]
    flops: int
    flops_full: int
    attention_flops: int
    attention_flops_full: int
    kv_bytes: int
    kv_bytes_full: int


def sum_up(finished: Finished) -> Totals:
    """Return the sums of one prefill, without what became of each token."""
    layout = finished.layout
    new, old = _token_counts(finished)
    full_new = [int(n) for n in (finished.full[:, finished.past :] >= 0).sum(1)]
    full_old = [int(n) for n in (finished.full[:, : finished.past] >= 0).sum(1)]
    shape, layers = finished.shape, finished.shape.layers
    costs: list[Cost] = []
    costs_full: list[Cost] = []
    cache = cache_full = 0
    for sample in range(layout.batch):
        per_layer, all_layers = [row[sample] for row in new], [full_new[sample]] * layers
        costs.append(prefill_cost(shape, per_layer, [row[sample] for row in old]))
        costs_full.append(prefill_cost(shape, all_layers, [full_old[sample]] * layers))
        cache += kv_bytes(shape, per_layer, finished.element_bytes)
        cache_full += kv_bytes(shape, all_layers, finished.element_bytes)
    return Totals(
        visual_tokens=tuple(int(n) for n in (layout.role == int(Role.GRID)).sum(1)),
        tokens_per_layer=tuple(
            tuple(counts[sample] for counts in finished.grid_counts)
            for sample in range(layout.batch)
        ),
        flops=sum(cost.total for cost in costs),
        flops_full=sum(cost.total for cost in costs_full),
        attention_flops=sum(cost.attention_flops for cost in costs),
        attention_flops_full=sum(cost.attention_flops for cost in costs_full),
        kv_bytes=cache,
        kv_bytes_full=cache_full,
    )


def build_trace(finished: Finished) -> Trace:
    """Return the trace of one prefill."""
    layout = finished.layout
    cells = [_cells(layout, sample) for sample in range(layout.batch)]
    return Trace(
        num_layers=finished.shape.layers,
        events=tuple(_event(finished, record, cells[record.sample]) for record in finished.records),
        segments=_segments(finished),
        layout_note=layout.note,
        **asdict(sum_up(finished)),
    )


def _cells(layout: Layout, sample: int) -> dict[int, Cell]:
    """Return the cell of every grid token of a sample, by its column."""
    role = layout.role[sample].tolist()
    columns = [c for c, value in enumerate(role) if value == 1]
    parts = [getattr(layout, name)[sample].tolist() for name in ("item", "frame", "row", "column")]
    return {c: (parts[0][c], parts[1][c], parts[2][c], parts[3][c]) for c in columns}


def _event(finished: Finished, record: Record, cells: dict[int, Cell]) -> Event:
    columns = record.positions.tolist()
    scores = record.plan.scores
    return Event(
        layer=record.layer,
        reducer=finished.names[record.stage],
        stage=record.stage,
        sample=record.sample,
        before=record.before,
        after=len(columns),
        kept=tuple(cells[column] for column in columns),
        positions=tuple(column + finished.past for column in columns),
        merged=_merged(record, cells),
        scores=None if scores is None else tuple(scores.float().tolist()),
        note=record.plan.note,
        plan_seconds=record.plan_seconds,
        apply_seconds=record.apply_seconds,
    )


def _merged(record: Record, cells: dict[int, Cell]) -> tuple[tuple[Cell, ...], ...]:
    members: dict[int, list[int]] = {}
    for column, owner in enumerate(record.owner.tolist()):
        if owner >= 0 and column in cells:
            members.setdefault(owner, []).append(column)
    groups = []
    for owner in sorted(members):
        if len(members[owner]) > 1:
            others = [column for column in members[owner] if column != owner]
            groups.append(tuple(cells[column] for column in [owner, *others]))
    return tuple(groups)


def _segments(finished: Finished) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    last: object = ()
    for layer, held in enumerate(finished.held):
        if held is last:
            continue
        last = held
        positions = finished.full if held is None else held.positions
        rows = tuple(tuple(p for p in row if p >= 0) for row in _ints(positions))
        segments.append(Segment(first_layer=layer, positions=rows))
    return tuple(segments)


def _token_counts(finished: Finished) -> tuple[list[list[int]], list[list[int]]]:
    """Return ``[layer][sample]`` tokens that a layer holds, of this forward and of earlier ones."""
    counts: dict[int, tuple[list[int], list[int]]] = {}
    new, old = [], []
    for held in finished.held:
        if id(held) not in counts:
            positions = finished.full if held is None else held.positions
            now = (positions >= finished.past).sum(1).tolist()
            before = ((positions >= 0) & (positions < finished.past)).sum(1).tolist()
            counts[id(held)] = (now, before)
        new.append(counts[id(held)][0])
        old.append(counts[id(held)][1])
    return new, old


def _ints(positions: Tensor) -> list[list[int]]:
    rows: list[list[int]] = positions.tolist()
    return rows
