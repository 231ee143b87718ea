"""VCC: average pooling of the visual sequence, once and early."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tokenreduce.plan import Plan
from tokenreduce.reducer import Layer, Reducer
from tokenreduce.schedule import resolve_layer

if TYPE_CHECKING:
    from tokenreduce.view import View


class Vcc(Reducer):
    """Average every ``stride`` consecutive visual tokens into one after one early layer.

    Why it works: neighbours in the flattened sequence are mostly neighbours in the picture, and
    their mean keeps what they share. It looks at nothing but the order of the tokens.

    Source: Chen et al. 2024, "LLaVolta: Efficient Multi-modal Models via Stage-wise Visual Context
    Compression" (arXiv 2406.20092), its Visual Context Compressor; public code:
    Beckschen/LLaVolta. The shrinking paper runs it after the 2nd layer, 2 -> 1.

    Where we differ
    ---------------
    - The public pooling drops the ``n mod stride`` tokens at the end; here they are averaged into
      one last, smaller window, so nothing is lost silently: ``ceil(n / stride)`` tokens stay.
    - Windows begin anew with every image or video of a sample; they never mix two.
    - The public code averages position ids too (in half precision, cut to integers); here a pooled
      token takes the position of its first member, the policy of the whole run.
    - After an earlier merge the mean is weighted by how many originals each token stands for.
    - The original is a training recipe and ends with no compression; used without training, as here
      and in the shrinking paper, its accuracy claims do not carry over.

    Parameters
    ----------
    layer
        Layer after which to pool; index 1, the 2nd layer. -1 pools before the language model.
    stride
        Tokens per window, >= 1; 1 changes nothing.
    within
        ``sequence`` pools the flattened tokens as published, ``frames`` never across two frames.
    """

    name: ClassVar[str] = "vcc"
    budget_fields: ClassVar[Mapping[str, tuple[float, float]]] = {"stride": (1, 16)}

    layer: Layer = Field(
        1,
        description="layer after which to pool: a 0-based index (-1: before the first layer), or "
        "a fraction of the depth",
    )
    stride: int = Field(2, ge=1, description="consecutive visual tokens averaged into one")
    within: Literal["sequence", "frames"] = Field(
        "sequence",
        description="'sequence': windows run over the flattened visual sequence of an image or "
        "video, as published; 'frames': windows begin anew with every frame",
    )

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        """Return the one layer to act after."""
        return (resolve_layer(self.layer, num_layers),)

    def plan(self, view: View) -> Plan | None:
        """Merge the windows."""
        if len(view) == 0:
            return None
        group = view.item
        if self.within == "frames":
            group = view.item * (view.frame.max() + 1) + view.frame
        plan = Plan.windows(
            group, self.stride, note=f"pooled by {self.stride} within {self.within}"
        )
        return plan if plan.kept < len(view) else None
