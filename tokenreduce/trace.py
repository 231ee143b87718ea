"""What a prefill did to its visual tokens, in plain values that go to JSON and back."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

Cell = tuple[int, int, int, int]
"""(item, frame, row, column) of a visual token."""


class Event(BaseModel):
    """One reduction of one sample.

    Attributes
    ----------
    layer
        Index of the layer after which it happened; -1: before the first.
    reducer, stage
        Name of the reducer that decided, and its place among the run's reducers, from 0: one name
        may stand in a list twice.
    sample
        Row of the batch.
    before, after
        Grid tokens of the sample before and after.
    kept
        Cell of each token that is left (for a merged token: of its first member).
    positions
        Original sequence position of each token that is left.
    merged
        For each token that is left and stands for several originals, the cells of all of them,
        its own first.
    scores
        What the choice was made by, over the tokens before, higher = keep; None if there is none.
    note
        The reducer's word on why.
    plan_seconds, apply_seconds
        Time on the host for deciding, scoring included, and for carrying it out, both for the
        whole batch.
    """

    # Scores may be infinite, which plain JSON numbers cannot be.
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    layer: int
    reducer: str
    stage: int
    sample: int
    before: int
    after: int
    kept: tuple[Cell, ...]
    positions: tuple[int, ...]
    merged: tuple[tuple[Cell, ...], ...]
    scores: tuple[float, ...] | None
    note: str
    plan_seconds: float
    apply_seconds: float


class Segment(BaseModel):
    """Consecutive layers whose caches hold the same tokens.

    Attributes
    ----------
    first_layer
        Index of the first of them.
    positions
        Per sample, the sorted original positions whose keys they hold.
    """

    model_config = ConfigDict(frozen=True)

    first_layer: int
    positions: tuple[tuple[int, ...], ...]


class Trace(BaseModel):
    """All that one prefill under reduction did.

    Attributes
    ----------
    num_layers
        Decoder layers.
    visual_tokens
        Per sample, grid tokens before any reduction.
    tokens_per_layer
        Per sample and layer, grid tokens in that layer's key-value cache.
    events
        Reductions in the order they happened.
    segments
        What each layer's cache holds.
    flops, flops_full
        Multiply-adds times two of this prefill and of the same one without reduction
        (convention: :mod:`tokenreduce.cost`).
    attention_flops, attention_flops_full
        How many of them are attention's; the others are products with weights.
    kv_bytes, kv_bytes_full
        Bytes of keys and values this prefill put into the cache, and would have without reduction.
    layout_note
        How the layout came about, if that is worth knowing.
    """

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    num_layers: int
    visual_tokens: tuple[int, ...]
    tokens_per_layer: tuple[tuple[int, ...], ...]
    events: tuple[Event, ...]
    segments: tuple[Segment, ...]
    flops: int
    flops_full: int
    attention_flops: int
    attention_flops_full: int
    kv_bytes: int
    kv_bytes_full: int
    layout_note: str = ""

    @property
    def img_memory(self) -> float:
        """Grid tokens in the cache over all layers, as a share of the unreduced; mean over samples.

        Samples without visual tokens do not count; 1.0 if there is no other.
        """
        shares = [
            sum(per_layer) / (self.num_layers * total)
            for per_layer, total in zip(self.tokens_per_layer, self.visual_tokens, strict=True)
            if total
        ]
        return sum(shares) / len(shares) if shares else 1.0

    @property
    def flops_ratio(self) -> float:
        """FLOPs of the prefill as a share of the unreduced one's."""
        return self.flops / self.flops_full

    def kept_positions(self) -> list[list[list[int]]]:
        """Return ``[layer][sample]``: sorted original positions whose keys that layer holds.

        Positions count from the left of the batch, its padding included; padding itself is not
        listed. A merged token is listed at the position it carries. On a later turn the positions
        of earlier turns are listed as well.
        """
        per_layer: list[list[list[int]]] = []
        for number, segment in enumerate(self.segments):
            last = number + 1 == len(self.segments)
            end = self.num_layers if last else self.segments[number + 1].first_layer
            held = [list(positions) for positions in segment.positions]
            per_layer.extend([list(row) for row in held] for _ in range(end - segment.first_layer))
        return per_layer

    def to_json(self) -> str:
        """Return the trace as a JSON document."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> Trace:
        """Read a trace back from :meth:`to_json`."""
        return cls.model_validate_json(text)
