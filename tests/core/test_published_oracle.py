"""Published methods against the mask and dense oracle, through the model's own ``generate``."""

from __future__ import annotations

import pytest

from tokenreduce.testing.oracle import check_against_oracle
from tokenreduce.testing.tiny import ragged, single, tiny_onevision
from tokenreduce_plugins.div_prune import DivPrune
from tokenreduce_plugins.evs import Evs
from tokenreduce_plugins.frame_fusion import FrameFusion
from tokenreduce_plugins.pyramid_drop import PyramidDrop
from tokenreduce_plugins.sparse_vlm import SparseVLM
from tokenreduce_plugins.vas import Vas
from tokenreduce_plugins.vtw import Vtw

# (reducer, what is left of the 24 and 48 visual tokens of two samples, or what events are noted)
CASES = {
    "pyramid-drop": (PyramidDrop(), (3, 6)),
    "pyramid-drop-from-the-start": (PyramidDrop(layers=(-1, 2), ratios=(0.25, 0.5)), (9, 18)),
    "sparse-vlm": (SparseVLM(layers=(1, 2, 3)), (5, 9)),
    "frame-fusion": (FrameFusion(), {"merged", "merged to the budget"}),
    "frame-fusion-merges-only": (FrameFusion(threshold=-0.2, cost=0.6), {"merged to the budget"}),
    "frame-fusion-merges-on": (
        FrameFusion(threshold=0.7, cost=0.1, least_share=0.01),
        {"merged", "pruned"},
    ),
    "frame-fusion-prunes-only": (FrameFusion(threshold=1, cost=0.5), {"pruned"}),
    "evs": (Evs(), (7, 14)),
    "evs-later": (Evs(layer=1, ratio=0.5), (12, 24)),
    "div-prune": (DivPrune(), (2, 5)),
    "div-prune-later": (DivPrune(layer=0, ratio=0.5), (12, 24)),
    "vtw": (Vtw(), (0, 0)),
    "vtw-blind": (Vtw(layer=-1), (0, 0)),
}


@pytest.mark.parametrize("inputs", [single, ragged])
@pytest.mark.parametrize(("reducer", "expected"), CASES.values(), ids=CASES.keys())
def test_generation_equals_the_oracle(reducer, expected, inputs):
    run = check_against_oracle(tiny_onevision(), [reducer], inputs(), new=6)
    after = {event.sample: event.after for event in run.trace.events}
    assert set(after) == ({0} if inputs is single else {0, 1})
    if isinstance(expected, tuple):
        assert after == {sample: expected[sample] for sample in after}
    else:
        assert {event.note for event in run.trace.events} == expected
    if isinstance(reducer, FrameFusion) and reducer.cost > 0.1:
        # What is left for the later layers is rounded to whole tokens.
        assert run.trace.img_memory == pytest.approx(reducer.cost, abs=0.5 / 24)


def test_composed_methods_equal_the_oracle():
    late = Vas(start_layer=3, end_layer=4, interval=1)
    reducers = [Evs(ratio=0.3), PyramidDrop(layers=(1,)), FrameFusion(start_layer=2), late]
    check_against_oracle(tiny_onevision(), reducers, ragged(), new=4)
