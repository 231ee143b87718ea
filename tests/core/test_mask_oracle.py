"""Dropping equals masking and merging equals averaging, through the model's own ``generate``."""

from __future__ import annotations

import pytest

from tokenreduce import Plan, Reducer, View
from tokenreduce.testing.oracle import check_against_oracle
from tokenreduce.testing.tiny import ragged, single, tiny_onevision
from tokenreduce_plugins.fastv import FastV
from tokenreduce_plugins.random import Random
from tokenreduce_plugins.spatial_average import SpatialAverage
from tokenreduce_plugins.temporal_average import TemporalAverage
from tokenreduce_plugins.tome import ToMe
from tokenreduce_plugins.vas import Vas
from tokenreduce_plugins.vcc import Vcc

REDUCERS = {
    "vas-frames": Vas(start_layer=1, end_layer=4, interval=2, axis="frames", ratio=0.4),
    "vas-positions": Vas(start_layer=1, end_layer=4, interval=2, axis="positions", ratio=0.4),
    "vas-tokens": Vas(start_layer=1, end_layer=4, interval=1, axis="tokens"),
    "vas-auto": Vas(start_layer=2, end_layer=4, interval=2, trigger_share=0.3),
    "vas-drop-all": Vas(start_layer=1, end_layer=4, interval=2, drop_all_at_end=True),
    "fastv-last": FastV(),
    "fastv-text": FastV(queries="text", ratio=0.75),
    "fastv-all": FastV(queries="all", layer=0),
    "random": Random(layers=[0, 2], ratios=[0.5, 0.3]),
    "vcc": Vcc(stride=3),
    "vcc-frames": Vcc(within="frames"),
    "tome": ToMe(r=3),
    "spatial": SpatialAverage(layers=[0, 2]),
    "temporal": TemporalAverage(layers=[1, 3]),
}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("inputs", [single, ragged])
@pytest.mark.parametrize("reducer", REDUCERS.values(), ids=REDUCERS.keys())
def test_generation_equals_the_oracle(reducer, inputs, attention):
    run = check_against_oracle(tiny_onevision(attention=attention), [reducer], inputs())
    assert run.trace.img_memory < 1


@pytest.mark.parametrize("name", ["vas-tokens", "fastv-last", "random", "tome"])
@pytest.mark.parametrize("inputs", [single, ragged])
def test_beams_equal_the_oracle(name, inputs):
    check_against_oracle(tiny_onevision(), [REDUCERS[name]], inputs(), new=8, num_beams=3)


class DropBeforeFirst(Reducer):
    """Drops every second token on the embeddings."""

    name = "drop_before_first"

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        return (-1,)

    def plan(self, view: View) -> Plan | None:
        assert view.layer == -1
        return Plan.where(view.index % 2 == 0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("inputs", [single, ragged])
def test_reduction_before_the_first_layer(inputs, attention):
    run = check_against_oracle(tiny_onevision(attention=attention), [DropBeforeFirst()], inputs())
    assert run.trace.events[0].layer == -1
    assert all(row[0] < total for row, total in _with_vision(run.trace))


def _with_vision(trace):
    pairs = zip(trace.tokens_per_layer, trace.visual_tokens, strict=True)
    return [(row, total) for row, total in pairs if total]


@pytest.mark.parametrize("inputs", [single, ragged])
def test_composed_reducers(inputs):
    reducers = [DropBeforeFirst(), REDUCERS["tome"], REDUCERS["vas-tokens"]]
    run = check_against_oracle(tiny_onevision(), reducers, inputs())
    assert {e.reducer for e in run.trace.events} == {"recorder"}
