"""Reducers on 65,536 visual tokens: no map of all tokens by all tokens is ever built."""

from __future__ import annotations

import pytest
import torch

from tokenreduce import Reducer
from tokenreduce.measure import peak_memory
from tokenreduce.testing.views import FakeView
from tokenreduce_plugins.evs import Evs
from tokenreduce_plugins.frame_fusion import FrameFusion
from tokenreduce_plugins.sparse_vlm import SparseVLM
from tokenreduce_plugins.tome import ToMe

FRAMES, SIDE = 256, 16
TOKENS = FRAMES * SIDE * SIDE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reducer", "layer"), [(ToMe(), 5), (FrameFusion(), -1), (Evs(), -1), (SparseVLM(), 2)]
)
def test_planning_takes_memory_in_proportion_to_the_tokens(reducer: Reducer, layer: int) -> None:
    """A full map of 65,536 tokens takes 16 GiB in float32, of half by half of them 4 GiB.

    What is allowed is 8 times the states read, 64 MiB in float32.
    """
    place = torch.arange(TOKENS)
    cells = torch.stack(
        [
            torch.zeros_like(place),
            place // SIDE**2,
            place % SIDE**2 // SIDE,
            place % SIDE,
        ],
        dim=1,
    )
    view = FakeView(
        cells,
        layer=layer,
        keys=torch.randn(TOKENS, 4, 64),
        # Half of the picture stands still.
        hidden=torch.randn(SIDE**2, 256).repeat(FRAMES, 1)
        + torch.randn(TOKENS, 256) * (place % 2)[:, None],
        visual_embeddings=torch.randn(TOKENS, 256),
        text_embeddings=torch.randn(48, 256),
        attention=lambda rows, layer: torch.rand(4, TOKENS),
    )
    plans = []
    taken = peak_memory(lambda: plans.append(reducer.plan(view)), "cpu")
    assert 0 < plans[0].kept < TOKENS
    assert taken <= 8 * TOKENS * 256 * 4
