"""Every model family under every built-in reducer, judged by the mask oracle; and the page of it.

``python -m tests.adapters.matrix`` runs all of it and writes ``docs/models/matrix.md``.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import torch

from tests.adapters.family import FamilyCase, families
from tokenreduce.errors import ConformanceError
from tokenreduce.reducer import Reducer
from tokenreduce.testing.oracle import check_against_oracle
from tokenreduce_plugins.div_prune import DivPrune
from tokenreduce_plugins.evs import Evs
from tokenreduce_plugins.fastv import FastV
from tokenreduce_plugins.frame_fusion import FrameFusion
from tokenreduce_plugins.keep_all import KeepAll
from tokenreduce_plugins.pyramid_drop import PyramidDrop
from tokenreduce_plugins.random import Random
from tokenreduce_plugins.sparse_vlm import SparseVLM
from tokenreduce_plugins.spatial_average import SpatialAverage
from tokenreduce_plugins.temporal_average import TemporalAverage
from tokenreduce_plugins.tome import ToMe
from tokenreduce_plugins.vas import Vas
from tokenreduce_plugins.vcc import Vcc
from tokenreduce_plugins.vtw import Vtw

PAGE = Path(__file__).parents[2] / "docs" / "models" / "matrix.md"
NEW_TOKENS = 8
FAMILIES = {case.name: case for case in families()}


def reducers(first: int) -> dict[str, Reducer]:
    """Return every built-in reducer, acting from the first layer that it can on a small model.

    Parameters
    ----------
    first
        The first layer after which the family lets tokens be reduced.
    """
    # Attention is known after a layer has run; before the first there are embeddings only.
    seen, early = max(first, 0), first
    listed = (
        KeepAll(),
        Vas(start_layer=seen, end_layer=seen + 2, interval=1, ratio=0.4),
        FastV(layer=seen),
        Vcc(layer=seen),
        ToMe(r=2, start_layer=seen),
        Random(layers=[early, seen + 1], ratios=[0.5, 0.3]),
        SpatialAverage(layers=[early, seen + 1]),
        TemporalAverage(layers=[early, seen + 1]),
        PyramidDrop(layers=(seen, seen + 1)),
        SparseVLM(layers=(seen, seen + 1), shares=(0.6, 0.3)),
        FrameFusion(start_layer=early),
        Evs(layer=early),
        DivPrune(layer=early),
        Vtw(layer=seen),
    )
    return {reducer.name: reducer for reducer in listed}


NAMES = tuple(reducers(-1))
OVER_TIME = ("temporal_average", "evs")
SIGNS = {"exact": "✅", "exact, one frame": "·"}


@cache
def outcome(family: str, reducer: str) -> str:
    """Return what was seen on the family's left-padded batch of prompts.

    ``exact``; ``exact, one frame`` where images of one frame leave a reducer over time nothing to
    do; or what was wrong.
    """
    case = FAMILIES[family]
    model, inputs = case.model(), case.prompts["ragged"]()
    chosen = reducers(case.adapter.first_layer(model))[reducer]
    try:
        run = check_against_oracle(model, [chosen], inputs, new=NEW_TOKENS, adapter=case.adapter)
    except ConformanceError as error:
        return f"differs: {error}"
    if (run.trace.img_memory < 1) != (reducer == "keep_all"):
        return "exact"
    still = int(case.adapter.layout(model, inputs).frame.max()) == 0
    return "exact, one frame" if still and reducer in OVER_TIME else "reduced nothing"


def page() -> str:
    """Return the page, from what was seen."""
    rows = [
        f"| {_link(case)} | " + " | ".join(_sign(outcome(name, r)) for r in NAMES) + " |"
        for name, case in FAMILIES.items()
    ]
    head = f"| family | {' | '.join(f'`{name}`' for name in NAMES)} |"
    return "\n".join([INTRODUCTION, head, "|---" * (len(NAMES) + 1) + "|", *rows, ""])


INTRODUCTION = """\
# Families and reducers

Every cell is a run of the test suite: a tiny random model of the family's own class, a \
left-padded batch of different prompts (one of text alone), `generate` with 8 new tokens under \
the reducer; and the bare model with the dropped tokens masked as keys and the merged ones \
averaged densely. \
✅: the tokens are the same, and no logit differs by more than 1e-4 in float32. ·: the same, but \
the family takes images only, and the reducer compares frames of a video, so there is nothing to \
reduce. This page is written by `python -m tests.adapters.matrix`; a slow test compares it with \
what it sees.

The models are random and small. The page says that reduction is exact on a family, not that a \
method works well on it.
"""


def _link(case: FamilyCase) -> str:
    return f"[`{case.name}`]({case.adapter.name}.md)"


def _sign(found: str) -> str:
    return SIGNS.get(found, f"❌ {found}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for number, name in enumerate(FAMILIES, 1):
        seen = {reducer: outcome(name, reducer) for reducer in NAMES}
        wrong = {k: v for k, v in seen.items() if v not in SIGNS}
        print(f"{number}/{len(FAMILIES)} {name}: {wrong or 'all exact'}", file=sys.stderr)
    PAGE.write_text(page(), encoding="utf-8")
