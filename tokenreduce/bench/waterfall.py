"""A picture of where the time to first token goes: one waterfall per row, as SVG."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from tokenreduce.cost import DecoderShape, prefill_cost

if TYPE_CHECKING:
    from tokenreduce.bench.result import Result, Row

LABELS, BARS, VALUES = 230, 560, 160  # pixels of the three columns
LINE, BAR = 20, 13  # pixels from bar to bar, and of a bar
COLORS = {
    "vision": "#7a6fb0",
    "layers": "#3f7fbf",
    "scoring": "#d9822b",
    "plan": "#c23030",
    "apply": "#8a5a2b",
    "rest": "#8a9ba8",
}


@dataclass(frozen=True, slots=True)
class Stage:
    """One bar.

    Attributes
    ----------
    kind
        Key of :data:`COLORS`.
    label
        For people.
    seconds
        Measured.
    ideal
        What its FLOPs come to at the machine's rates; None where there are none to count.
    """

    kind: str
    label: str
    seconds: float
    ideal: float | None = None


def stages(result: Result, row: Row) -> list[Stage]:
    """Return the bars of one row, in order; none if it was not profiled."""
    if row.phases is None:
        return []
    bars = []
    if result.vision is not None:
        bars.append(Stage("vision", "vision tower", result.vision["minimum"]))
    bars += _layers(result, row)
    for kind, label in (("scoring", "scoring"), ("plan", "planning"), ("apply", "applying")):
        if row.reducer is not None:
            bars.append(Stage(kind, label, row.phases[kind]))
    bars.append(Stage("rest", "embeddings, norm, head", row.phases["rest"]))
    if row.first_token is not None:
        bars.append(Stage("rest", "attaching, first token", row.first_token["minimum"]))
    return bars


def waterfall(result: Result) -> str:
    """Return the SVG picture of all rows that were profiled.

    Bars begin where the one above ended. A dark outline is what the FLOPs of these layers come to
    at the rates of matrix products and attention that were measured in the same run.
    """
    panels = [(row, stages(result, row)) for row in result.rows if row.phases is not None]
    longest = max((sum(bar.seconds for bar in bars) for _, bars in panels), default=1.0)
    top, parts = 24, []
    for row, bars in panels:
        total = sum(bar.seconds for bar in bars)
        name = f"{row.label}: {total * 1000:.0f} ms"
        parts.append(_text(4, top, name, "bold"))
        parts += _panel(bars, top + 8, BARS / longest)
        top += (len(bars) + 2) * LINE
    width = LABELS + BARS + VALUES
    title = escape(f"{result.model}, {result.visual_tokens} visual tokens: where the time goes")
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top}" role="img" '
        f'font-family="sans-serif" font-size="12"><title>{title}</title>'
        f'<rect width="{width}" height="{top}" fill="#ffffff"/>'
    )
    return "\n".join([head, *parts, "</svg>", ""])


def _layers(result: Result, row: Row) -> Iterator[Stage]:
    """Yield one bar for each run of layers over the same tokens."""
    assert row.phases is not None
    sizes = {**result.shape, "dense_layers": tuple(result.shape.get("dense_layers", ()))}
    costs = prefill_cost(DecoderShape(**sizes), row.tokens_per_layer).layers
    numbered = enumerate(row.tokens_per_layer)
    for tokens, run in groupby(numbered, key=lambda each: each[1]):
        layers = [layer for layer, _ in run]
        ideal = None
        if result.rates is not None:
            ideal = sum(
                costs[k].matmul / result.rates["matmul_flops_per_second"]
                + costs[k].attention / result.rates["attention_flops_per_second"]
                for k in layers
            )
        name = f"layer {layers[0]}"
        if len(layers) > 1:
            name = f"layers {layers[0]} to {layers[-1]}"
        spent = sum(row.phases["layers"][k] for k in layers)
        yield Stage("layers", f"{name}: {tokens} tokens", spent, ideal)


def _panel(bars: list[Stage], top: float, scale: float) -> Iterator[str]:
    start = 0.0
    for number, bar in enumerate(bars):
        y = top + number * LINE
        x, width = LABELS + start * scale, bar.seconds * scale
        yield _text(16, y + BAR - 2, bar.label)
        yield f'<rect x="{x:.1f}" y="{y}" width="{max(width, 0.5):.1f}" height="{BAR}" ' + (
            f'fill="{COLORS[bar.kind]}"/>'
        )
        value = f"{bar.seconds * 1000:.1f} ms"
        if bar.ideal is not None:
            yield (
                f'<rect x="{x:.1f}" y="{y}" width="{bar.ideal * scale:.1f}" height="{BAR}" '
                'fill="none" stroke="#182026" stroke-width="1.2"/>'
            )
            value += f" ({bar.ideal * 1000:.0f})"
        yield _text(max(x + width, x + (bar.ideal or 0) * scale) + 5, y + BAR - 2, value)
        start += bar.seconds


def _text(x: float, y: float, words: str, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y}" font-weight="{weight}" fill="#182026">{escape(words)}</text>'
