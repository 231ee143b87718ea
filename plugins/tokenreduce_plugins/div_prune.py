"""DivPrune: before the first layer, keep the tokens that differ most from one another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from tokenreduce.plan import Plan
from tokenreduce.reducer import Layer, Ratio, Reducer
from tokenreduce.schedule import keep_count, resolve_layer

if TYPE_CHECKING:
    from torch import Tensor

    from tokenreduce.view import View

CELLS = 1 << 24
"""Distances computed at a time: 64 MiB of float32, however long the video."""

TIE = 1e-6
"""Distances this close are equal: less is rounding, and would choose by the kernel."""


class DivPrune(Reducer):
    """Keep a subset of the visual tokens whose two most similar members differ as much as can be.

    Why it works: tokens with high scores are often alike, and keeping many of them says one thing
    many times. A subset spread over the embeddings covers everything that was seen, whatever the
    question is; no attention is needed.

    Source: Alvar et al. 2025, "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal
    Models" (arXiv 2503.02175); public code: vbdi/divprune (not free; written from the paper).
    Max-min diversity, solved greedily; 9.8 % of the tokens are kept.

    Where we differ
    ---------------
    - The published code holds the whole matrix of distances: a gigabyte at 16k tokens. Here only
      the first choice needs all pairs, a few rows at a time; each later one needs one column.
    - The count to keep is rounded half up and never zero. Of equals the earlier token is chosen.
    - All images and videos of a sample share one subset and one budget.
    - Positions are kept by default, and are a setting of the run.

    Parameters
    ----------
    ratio
        Share of the visual tokens to drop, in [0, 1).
    layer
        Layer after which to drop, by default -1: before the first, on the embeddings, as published.
    """

    name: ClassVar[str] = "div_prune"
    budget_fields: ClassVar[Mapping[str, tuple[float, float]]] = {"ratio": (0.0, 0.99)}

    ratio: Ratio = Field(0.902, description="share of the visual tokens to drop, in [0, 1)")
    layer: Layer = Field(
        -1,
        description="layer after which to drop: -1 is before the first, on the embeddings; else a "
        "0-based index or a fraction of depth, on the hidden states",
    )

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        """Return the one layer to act after."""
        return (resolve_layer(self.layer, num_layers),)

    def plan(self, view: View) -> Plan | None:
        """Choose the token farthest from all others, then always the farthest from those chosen."""
        import torch

        keep = keep_count(len(view), self.ratio)
        if keep == len(view):
            return None
        metric = torch.nn.functional.normalize(view.hidden.float(), dim=-1)  # [n, dim]
        chosen = [_farthest(_nearest(metric))]
        distance = torch.full((len(view),), torch.inf, device=metric.device)
        while len(chosen) < keep:
            column = 1 - metric @ metric.index_select(0, chosen[-1]).squeeze(0)
            distance = torch.minimum(distance, column).index_fill(0, chosen[-1], -torch.inf)
            chosen.append(_farthest(distance))
        return Plan.keep(torch.cat(chosen), len(view), note="diverse")


def _farthest(distance: Tensor) -> Tensor:
    """Return ``[1]``: the first index of the greatest distance. Never leaves the device."""
    import torch

    return (distance >= distance.max() - TIE).to(torch.uint8).argmax(dim=0, keepdim=True)


def _nearest(metric: Tensor) -> Tensor:
    """Return ``[n]``: cosine distance of every token to the one most like it."""
    import torch

    found = []
    rows = max(1, CELLS // len(metric))
    for start in range(0, len(metric), rows):
        distance = 1 - metric[start : start + rows] @ metric.T
        distance.diagonal(start).fill_(torch.inf)
        found.append(distance.min(dim=1).values)
    return torch.cat(found)
