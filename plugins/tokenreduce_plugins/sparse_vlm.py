"""SparseVLM: drop in stages what the question's own visual words do not look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, model_validator

from tokenreduce.errors import ConfigError
from tokenreduce.plan import Plan
from tokenreduce.reducer import Layer, Needs, Reducer
from tokenreduce.schedule import exact, resolve_layers, share_count

if TYPE_CHECKING:
    from torch import Tensor

    from tokenreduce.view import View

TIE = 1e-6
"""A word this close to the mean is at it: less is rounding, and would choose by the kernel."""

Share = Annotated[float, Field(gt=0, le=1)]


class SparseVLM(Reducer):
    """Keep, at three depths, the visual tokens that the question's relevant words attend to.

    Why it works: most words of a prompt say nothing about the picture and their attention is noise.
    Those whose embeddings lie closer to the visual tokens than the average word are the raters, and
    only their attention ranks the tokens.

    Source: Zhang et al. 2024, "SparseVLM: Visual Token Sparsification for Efficient Vision-Language
    Model Inference" (arXiv 2410.04417), second version; public code: Gumpest/SparseVLMs. It keeps
    300, 200 and 110 of 576 tokens at the output of layers 2, 6 and 15 of 32 ("192 tokens").

    Where we differ
    ---------------
    - The counts are a table for 576 tokens; here they are shares of the sample's original tokens,
      rounded half up and never zero. A stage that finds no more than its share drops nothing.
    - As in the second version nothing is recycled and positions are kept (a setting of the run).
    - It divides the weights by those of rotary positions alone; a view has no such map: left out.
    - Its 14 of 32 heads are those that give the visual tokens the most; whose rows are summed for
      that is not said: here the raters'.
    - Are all words equally close, then all of them rate. Of equal scores the earlier token stays.

    Parameters
    ----------
    layers
        Layers after which to drop, ascending; index 2, 6 and 15 of 32, as fractions of depth.
    shares
        Share of the sample's *original* visual tokens that is left after each, never rising.
    scale
        Factor on all shares, for a budget; a product above 1 is 1.
    heads
        Share of the attention heads that count: those that look at the visual tokens the most.
    """

    name: ClassVar[str] = "sparse_vlm"
    budget_fields: ClassVar[Mapping[str, tuple[float, float]]] = {"scale": (0.05, 5.2)}

    layers: tuple[Layer, ...] = Field(
        (3 / 32, 7 / 32, 16 / 32),
        min_length=1,
        description="layers after which to drop, ascending: 0-based indices or fractions of depth",
    )
    shares: tuple[Share, ...] = Field(
        (300 / 576, 200 / 576, 110 / 576),
        description="share of the original visual tokens left after each layer, in (0, 1], never "
        "rising",
    )
    scale: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="factor on all shares; a product above 1 is 1",
    )
    heads: Share = Field(
        14 / 32,
        description="share of the attention heads that count, in (0, 1]: those that look at the "
        "visual tokens the most",
    )

    @model_validator(mode="after")
    def _pairs(self) -> SparseVLM:
        if len(self.shares) != len(self.layers):
            raise ConfigError(
                f"sparse_vlm: {len(self.shares)} shares for {len(self.layers)} layers: give one "
                "share for each layer."
            )
        if list(self.shares) != sorted(self.shares, reverse=True):
            raise ConfigError(
                f"sparse_vlm: shares {list(self.shares)} rise, but they are of the original "
                "tokens, and none comes back: write them descending."
            )
        return self

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        """Return the layers of the stages."""
        layers = resolve_layers(self.layers, num_layers)
        if layers[0] < 0:
            raise ConfigError(
                f"sparse_vlm: layer {self.layers[0]} is before the first of {num_layers} layers, "
                "where there is no attention to rank by: use 0 or more."
            )
        return layers

    def needs(self) -> Needs:
        """Ask for the attention of text rows."""
        return Needs(attention=frozenset({"text"}))

    def plan(self, view: View) -> Plan | None:
        """Keep what the raters attend to most."""
        stage = self.acts_after(view.num_layers).index(view.layer)
        share = min(exact(self.shares[stage]) * exact(self.scale), exact(1))
        keep = max(1, share_count(view.total, share))
        if keep >= len(view):
            return None
        raters = _raters(view.visual_embeddings.float(), view.text_embeddings.float())
        weight = view.attention(raters, heads="each")  # [heads, n] summed over the raters
        count = max(1, share_count(len(weight), self.heads))
        looking = weight.sum(1).argsort(descending=True, stable=True)[:count]
        scores = weight[looking].mean(0) / len(raters)
        best = scores.argsort(descending=True, stable=True)[:keep]
        return Plan.keep(best, len(view), scores=scores, note=f"{len(raters)} raters")


def _raters(visual: Tensor, text: Tensor) -> list[int]:
    """Return which text rows lie closer to the visual tokens than the average one does.

    Input embeddings of *all* the sample's visual tokens go in, also of those gone since: every
    stage finds the raters of the first.
    """
    closeness = (visual @ text.to(visual.device).T).softmax(dim=1).mean(dim=0)  # [rows]
    above = closeness - closeness.mean() > TIE
    raters: list[int] = above.nonzero().squeeze(1).tolist()
    return raters or list(range(len(closeness)))
