"""Published schedules as arithmetic, and one configuration on models of different depth."""

from __future__ import annotations

import pytest
import torch

from tokenreduce.testing.views import constant, grid, prefill
from tokenreduce_plugins.fastv import FastV
from tokenreduce_plugins.keep_all import KeepAll
from tokenreduce_plugins.random import Random
from tokenreduce_plugins.spatial_average import SpatialAverage
from tokenreduce_plugins.temporal_average import TemporalAverage
from tokenreduce_plugins.tome import ToMe
from tokenreduce_plugins.vas import Vas
from tokenreduce_plugins.vcc import Vcc

DEPTHS = (14, 28, 32, 60)


def img_memory(reducer, num_layers, cells):
    tokens = len(cells)
    keys = torch.randn(tokens, 2, 4, generator=torch.Generator().manual_seed(0))
    done = prefill(reducer, cells, num_layers, attention=constant(tokens), keys=lambda layer: keys)
    return 100 * done.img_memory


@pytest.mark.parametrize(
    ("reducer", "num_layers", "expected"),
    [
        (FastV(), 32, 53.125),
        (Vcc(), 32, 53.125),
        (FastV(), 28, 53.571),
        (Vcc(within="frames"), 28, 53.571),
        (FastV(layer=4), 60, 54.167),
        (Random(layers=(11, 19)), 32, 59.375),
        (SpatialAverage(layers=(11, 19)), 32, 59.375),
        (TemporalAverage(layers=(11, 19)), 32, 59.375),
        (Random(), 32, 59.375),
        (SpatialAverage(), 32, 59.375),
        (TemporalAverage(), 32, 59.375),
        (KeepAll(), 32, 100),
    ],
    ids=lambda each: getattr(each, "name", ""),
)
def test_one_and_two_phase_rows_of_the_paper(reducer, num_layers, expected):
    assert img_memory(reducer, num_layers, grid(8, 14, 14)) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(
    ("reducer", "num_layers", "shape", "expected"),
    [
        (ToMe(r=48), 32, (16, 12, 12), 69.531),
        (ToMe(), 32, (16, 12, 12), 69.531),
        (ToMe(r=36), 32, (8, 14, 14), 66.422),
        (ToMe(r=32), 32, (8, 14, 14), 70.153),
        (ToMe(r=120, end_layer=23), 28, (32, 12, 12), 65.402),
    ],
)
def test_tome_rows_of_the_paper(reducer, num_layers, shape, expected):
    assert img_memory(reducer, num_layers, grid(*shape)) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(
    ("ratio", "interval", "expected"),
    [(0.5, 3, 28.1), (0.4, 3, 32.7), (0.3, 3, 39.7), (0.5, 4, 31.2), (0.4, 4, 36.9)],
)
def test_forced_vas_rows_of_the_paper(ratio, interval, expected):
    # Single tokens of a long video: rounding to whole ones is far below the last digit.
    reducer = Vas(ratio=ratio, interval=interval, start_layer=5, end_layer=27, axis="tokens")
    assert img_memory(reducer, 32, grid(16, 16, 16)) == pytest.approx(expected, abs=0.051)


@pytest.mark.parametrize(
    ("num_layers", "start", "expected"),
    [(32, 8, 48.7), (28, 5, 44.7), (60, 14, 36.6), (60, 8, 26.6)],
)
def test_forced_vas_rows_of_the_main_results(num_layers, start, expected):
    reducer = Vas(start_layer=start, axis="tokens")
    assert img_memory(reducer, num_layers, grid(16, 16, 16)) == pytest.approx(expected, abs=0.051)


@pytest.mark.parametrize("axis", ["frames", "positions", "auto"])
def test_whole_groups_give_the_same_row_where_sizes_divide(axis):
    reducer = Vas(ratio=0.5, start_layer=5, end_layer=16, axis=axis)
    single = Vas(ratio=0.5, start_layer=5, end_layer=16, axis="tokens")
    cells = grid(16, 4, 4)
    assert img_memory(reducer, 32, cells) == img_memory(single, 32, cells)


@pytest.mark.parametrize(
    ("reducer", "layers"),
    [
        (FastV(), ((1,), (1,), (1,), (1,))),
        (Vcc(), ((1,), (1,), (1,), (1,))),
        (Random(), ((4, 8), (9, 17), (11, 19), (21, 37))),
        (SpatialAverage(), ((4, 8), (9, 17), (11, 19), (21, 37))),
        (TemporalAverage(), ((4, 8), (9, 17), (11, 19), (21, 37))),
        (ToMe(), (range(10), range(21), range(24), range(45))),
        (Vas(), (range(3, 10), range(7, 24), range(8, 28), range(16, 56))),
        (KeepAll(), ((), (), (), ())),
    ],
    ids=lambda each: getattr(each, "name", ""),
)
def test_one_configuration_serves_every_depth(reducer, layers):
    assert [reducer.acts_after(depth) for depth in DEPTHS] == [tuple(each) for each in layers]


@pytest.mark.parametrize("num_layers", DEPTHS)
@pytest.mark.parametrize(
    "reducer",
    [
        FastV(),
        Vcc(),
        Random(),
        SpatialAverage(),
        TemporalAverage(),
        ToMe(),
        Vas(),
        Vas(axis="tokens"),
    ],
    ids=lambda each: getattr(each, "name", ""),
)
def test_defaults_reduce_at_every_depth(reducer, num_layers):
    assert 20 < img_memory(reducer, num_layers, grid(8, 6, 6)) < 90
