"""Published Img-Memory numbers, through the real scheduler on tiny models of the real depth."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch

import tokenreduce
from tokenreduce import Reducer
from tokenreduce.testing.tiny import PER_FRAME, batch, tiny_onevision, video_ids
from tokenreduce_plugins.fastv import FastV
from tokenreduce_plugins.random import Random
from tokenreduce_plugins.spatial_average import SpatialAverage
from tokenreduce_plugins.temporal_average import TemporalAverage
from tokenreduce_plugins.tome import ToMe
from tokenreduce_plugins.vas import Vas
from tokenreduce_plugins.vcc import Vcc


def memory(reducer: Reducer, layers: int, tokens: int) -> Any:
    """Return the trace of one prefill of ``tokens`` visual tokens through ``layers`` layers."""
    frames, rest = divmod(tokens, PER_FRAME)
    assert not rest
    model = tiny_onevision(layers, heads=2, key_heads=1, hidden=8)
    inputs = batch([[1, 2, *video_ids(frames), 5, 6, 7]], 1, frames)
    with torch.no_grad(), tokenreduce.reduce(model, reducer) as run:
        model(**inputs)
    return run.trace


HALF_PHASED = {"layers": [12 / 32, 20 / 32]}
# Reducer, layers, visual tokens, Img-Memory in per cent as the published schedule gives it.
EXACT = {
    "fastv-32": (FastV(layer=1, ratio=0.5), 32, 64, 53.125),
    "vcc-32": (Vcc(layer=1, stride=2), 32, 64, 53.125),
    "fastv-28": (FastV(layer=1, ratio=0.5), 28, 64, 53.571),
    "vcc-28": (Vcc(layer=1, stride=2), 28, 64, 53.571),
    "fastv-60": (FastV(layer=4, ratio=0.5), 60, 64, 54.167),
    "tome-48": (ToMe(), 32, 2304, 69.531),
    "tome-36": (ToMe(r=36), 32, 1568, 66.422),
    "tome-32": (ToMe(r=32), 32, 1568, 70.153),
    "tome-120": (ToMe(r=120, end_layer=23), 28, 4608, 65.402),
    "random-32": (Random(**HALF_PHASED), 32, 64, 59.375),
    "spatial-32": (SpatialAverage(**HALF_PHASED), 32, 64, 59.375),
    "temporal-32": (TemporalAverage(**HALF_PHASED), 32, 64, 59.375),
}


@pytest.mark.parametrize(
    ("reducer", "layers", "tokens", "percent"), EXACT.values(), ids=EXACT.keys()
)
def test_published_schedules_are_met_exactly(reducer, layers, tokens, percent):
    trace = memory(reducer, layers, tokens)
    assert round(100 * trace.img_memory, 3) == percent


def forced(layers: int, start: int, end: int, interval: int, ratio: Fraction) -> Fraction:
    """Return Img-Memory of a forced schedule without rounding, by walking the layers."""
    left, total = Fraction(1), Fraction(0)
    for layer in range(layers):
        total += left
        if start <= layer <= end and (layer - start) % interval == 0:
            left *= 1 - ratio
    return total / layers


# Layers, start, end, interval, share removed, Img-Memory in per cent, two decimals or one.
FORCED = [
    (32, 5, 27, 3, "0.5", 28.1),
    (32, 5, 27, 3, "0.4", 32.7),
    (32, 5, 27, 3, "0.3", 39.7),
    (32, 5, 27, 4, "0.5", 31.2),
    (32, 5, 27, 4, "0.4", 36.9),
    (32, 8, 27, 3, "0.3", 48.7),
    (28, 5, 23, 3, "0.3", 44.7),
    (60, 14, 55, 3, "0.3", 36.6),
    (60, 8, 55, 3, "0.3", 26.6),
]


@pytest.mark.parametrize(("layers", "start", "end", "interval", "ratio", "percent"), FORCED)
def test_forced_vas_schedules(layers, start, end, interval, ratio, percent):
    ideal = forced(layers, start, end, interval, Fraction(ratio))
    assert round(float(100 * ideal), 1) == percent
    # Ten thousand tokens make rounding to whole tokens invisible at one decimal; a share of 1 can
    # never be exceeded, so that every reduction is the forced one.
    reducer = Vas(
        ratio=float(ratio),
        interval=interval,
        start_layer=start,
        end_layer=end,
        axis="tokens",
        trigger_share=1.0,
    )
    trace = memory(reducer, layers, 4000)
    assert abs(trace.img_memory - float(ideal)) < 5e-4
    assert trace.events[0].layer == start
    steps = [b.layer - a.layer for a, b in zip(trace.events, trace.events[1:], strict=False)]
    assert set(steps) == {interval}


@pytest.mark.parametrize("layers", [14, 28, 32, 60])
@pytest.mark.parametrize(
    "reducer",
    [Vas(), FastV(), Vcc(), ToMe(), Random(), SpatialAverage(), TemporalAverage()],
    ids=lambda r: r.name,
)
def test_one_configuration_serves_every_depth(reducer, layers):
    trace = memory(reducer, layers, 64)
    # ToMe merges a fixed share of the tokens per layer, so few layers merge little.
    assert 0.3 < trace.img_memory < (0.95 if reducer.name == "tome" else 0.85)
    assert trace.tokens_per_layer[0][-1] < 64
