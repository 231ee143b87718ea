"""EVS: before the first layer, drop the tokens that repeat the frame before."""

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

NEW = 3.0
"""Score of a cell that is seen for the first time: above any distance, which is 2 at most."""


class Evs(Reducer):
    """Keep the visual tokens that changed most since the previous frame, cell by cell.

    Why it works: what stands still in a video is encoded again in every frame, and nearly equally;
    the first time is enough. The language model never sees the rest, so all its layers are faster.

    Source: Bagrov et al. 2025, "Efficient Video Sampling: Pruning Temporally Redundant Tokens for
    Faster VLM Inference" (arXiv 2510.14624); in use in vllm-project/vllm: vllm/multimodal/evs.py.

    Where we differ
    ---------------
    - The rate is left to the user there; 0.7 here, the rate of the timings that SGLang published.
    - The count is cut to an integer there; here it is rounded half up, as everywhere.
    - Tokens keep their positions here, as they do there under M-RoPE (the run's ``positions``).
    - Where an earlier reducer left gaps, a cell is compared with its last token that is left, and
      the first token of every cell is forced: on a full grid, that is the first frame. Hence an
      image always stays whole. Of equal changes the earlier token stays.

    Parameters
    ----------
    ratio
        Share of the tokens of each video to drop, in [0, 1); never more than all but one frame.
    layer
        Layer after which to drop, by default -1: before the first, on the embeddings, as published.
    """

    name: ClassVar[str] = "evs"
    budget_fields: ClassVar[Mapping[str, tuple[float, float]]] = {"ratio": (0.0, 0.99)}

    ratio: Ratio = Field(
        0.7,
        description="share of the visual tokens of each video to drop, in [0, 1); its first frame "
        "always stays",
    )
    layer: Layer = Field(
        -1,
        description="layer after which to drop: -1 is before the first, on the embeddings; else a "
        "0-based index or a fraction of depth, on the hidden states",
    )

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        """Return the one layer to act after."""
        return (resolve_layer(self.layer, num_layers),)

    def plan(self, view: View) -> Plan | None:
        """Keep the greatest changes of every video."""
        import torch

        change = _change(view)  # [n]
        item = view.item.to(change.device)
        order = change.argsort(descending=True, stable=True)
        keep = torch.zeros(len(view), dtype=torch.bool, device=change.device)
        for number in set(item.tolist()):
            own = order[item[order] == number]  # the greatest change first
            forced = int((change[own] == NEW).sum())
            keep[own[: max(forced, keep_count(len(own), self.ratio))]] = True
        return None if bool(keep.all()) else Plan.where(keep, scores=change)


def _change(view: View) -> Tensor:
    """Return ``[n]``: 1 - cosine to the same cell of the same item, one frame earlier."""
    import torch

    hidden = torch.nn.functional.normalize(view.hidden.float(), dim=-1)  # [n, dim]
    earlier = view.earlier.to(hidden.device)
    change = torch.full((len(view),), NEW, device=hidden.device)
    again = earlier >= 0
    change[again] = 1 - (hidden[earlier[again]] * hidden[again]).sum(dim=-1)
    return change
