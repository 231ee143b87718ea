"""What a bench measured, in the values that its JSON document and its table are made of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tokenreduce.measure import Timing

if TYPE_CHECKING:
    from tokenreduce.bench.phases import Phases
    from tokenreduce.bench.timing import Sample


@dataclass(frozen=True, slots=True)
class Row:
    """The numbers of one way to run the model; its fields are the keys of the JSON document.

    Attributes
    ----------
    label, reducer, settings
        See :class:`tokenreduce.store.Cell`; a baseline has no reducer.
    attention
        Attention implementation.
    tokens_per_layer
        Tokens that each layer runs over, text included.
    img_memory, flops_ratio
        Shares of the unreduced prefill.
    ttft, prefill, first_token, decode
        ``minimum``, ``median``, ``spread`` and all ``runs`` in seconds: from the encoded video to
        the first token, the forward in it, what is not that forward, and a later token.
    speedup, ttft_speedup
        Prefill, and time to first token, of the model with nothing attached over this row's;
        fastest runs.
    ttft_speedup_with_vision
        The same with the vision tower's time in both.
    speedup_over_eager
        Prefill over that of eager attention; None where that was not run.
    ideal_speedup
        What the FLOPs of the trace come to at this machine's rates.
    efficiency
        ``speedup / ideal_speedup``.
    phases
        Seconds of one prefill with a clock between all parts.
    overhead
        Scoring, planning and applying, as a share of that prefill.
    peak_memory
        Bytes; see :func:`tokenreduce.measure.peak_memory`.
    paper
        ``table``, ``ttft_speedup`` and ``img_memory`` that the paper reports for this row.
    note
        Why there are no numbers.
    """

    label: str
    reducer: str | None
    settings: Any
    attention: str
    tokens_per_layer: Sequence[int] = ()
    img_memory: float | None = None
    flops_ratio: float | None = None
    ttft: Mapping[str, Any] | None = None
    prefill: Mapping[str, Any] | None = None
    first_token: Mapping[str, Any] | None = None
    decode: Mapping[str, Any] | None = None
    speedup: float | None = None
    ttft_speedup: float | None = None
    ttft_speedup_with_vision: float | None = None
    speedup_over_eager: float | None = None
    ideal_speedup: float | None = None
    efficiency: float | None = None
    phases: Mapping[str, Any] | None = None
    overhead: float | None = None
    peak_memory: int | None = None
    paper: Mapping[str, float | None] | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that one bench measured.

    Attributes
    ----------
    model
        Named shape or folder.
    paper_model
        The paper's model of these sizes; empty if none.
    shape
        Sizes of the decoder.
    grid
        Frames, rows and columns; None for a checkpoint.
    visual_tokens, tokens
        Grid tokens, and all tokens of the prompt.
    options
        Everything that was asked for.
    machine
        Versions, processor, threads, device.
    rates
        FLOPs per second, measured in this run; None before they were.
    vision
        Seconds of the vision tower, and its FLOPs where they are known; None if it was not run.
    rows
        Baselines first.
    interrupted
        Whether it was stopped before its end.
    """

    model: str
    paper_model: str
    shape: Mapping[str, Any]
    grid: Sequence[int] | None
    visual_tokens: int
    tokens: int
    options: Mapping[str, Any]
    machine: Mapping[str, Any]
    rates: Mapping[str, float] | None
    vision: Mapping[str, Any] | None
    rows: Sequence[Row]
    interrupted: bool = False

    def to_json(self) -> str:
        """Return the JSON document on one line."""
        return json.dumps(asdict(self), allow_nan=False)


def seconds(runs: Sequence[float]) -> dict[str, Any]:
    """Return what the document holds of some runs, in seconds."""
    timing = Timing(tuple(runs))
    return {
        "minimum": timing.minimum,
        "median": timing.median,
        "spread": timing.spread,
        "runs": list(runs),
    }


def times(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the timings of a row; nothing if it never ran."""
    if not samples:
        return {}
    decode = [sample.decode for sample in samples if sample.decode is not None]
    return {
        "ttft": seconds([sample.ttft for sample in samples]),
        "prefill": seconds([sample.prefill for sample in samples]),
        "first_token": seconds([sample.first_token for sample in samples]),
        "decode": seconds(decode) if decode else None,
    }


def parts(phases: Phases) -> dict[str, Any]:
    """Return a profile as the document holds it."""
    return {
        "total": phases.total,
        "layers": list(phases.layers),
        "scoring": phases.scoring,
        "plan": phases.plan,
        "apply": phases.apply,
        "rest": phases.rest,
    }
