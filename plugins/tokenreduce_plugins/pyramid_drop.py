"""PyramidDrop: drop in stages, each ranked by what the next layer would look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from tokenreduce.errors import ConfigError
from tokenreduce.reducer import Layer, Needs, Ratio, ScoringReducer
from tokenreduce.schedule import resolve_layers

if TYPE_CHECKING:
    from torch import Tensor

    from tokenreduce.view import View


class PyramidDrop(ScoringReducer):
    """Drop half of the current visual tokens after a quarter, a half and three quarters of depth.

    Why it works: a shallow layer needs nearly every visual token, a deep one few. Between two
    stages the last instruction token has read the picture; its query in the layer that comes next
    says which tokens it still wants.

    Source: Xing et al. 2024, "PyramidDrop: Accelerating Your Large Vision-Language Models via
    Pyramid Visual Redundancy Reduction" (arXiv 2410.17247); public code: Cooperx521/PyramidDrop.
    Before layers 8, 16 and 24 of 32, to 1/2, 1/4 and 1/8 of the tokens.

    Where we differ
    ---------------
    - The public code gives shares of the original tokens, cut to integers; here each stage's share
      is of the *current* tokens, rounded half up and never zero, so that stages compose.
    - It renumbers the positions of what is left at every stage. Positions are a setting of the
      run here, and are kept by default.
    - It ranks one image of a sample; here all visual tokens of a sample are ranked together.
    - Training with the method is not done. Of equal scores the earlier token stays.

    Parameters
    ----------
    layers
        Layers after which to drop, ascending; 8/32, 16/32 and 24/32 of depth, that is index 7, 15
        and 23 of 32. The last layer cannot be one: nothing comes next to rank by.
    ratios
        Share of the current tokens to drop: one number for all stages, or one for each.
    """

    name: ClassVar[str] = "pyramid_drop"
    budget_fields: ClassVar[Mapping[str, tuple[float, float]]] = {"ratios": (0.0, 0.99)}

    layers: tuple[Layer, ...] = Field(
        (8 / 32, 16 / 32, 24 / 32),
        min_length=1,
        description="layers after which to drop, ascending: 0-based indices (-1: before the first) "
        "or fractions of depth",
    )
    ratios: Ratio | tuple[Ratio, ...] = Field(
        0.5,
        description="share of the current visual tokens to drop, in [0, 1): one number for all "
        "stages, or a list with one for each",
    )

    @model_validator(mode="after")
    def _pairs(self) -> PyramidDrop:
        if isinstance(self.ratios, tuple) and len(self.ratios) != len(self.layers):
            raise ConfigError(
                f"pyramid_drop: {len(self.ratios)} ratios for {len(self.layers)} layers: give one "
                "ratio for all, or one for each layer."
            )
        return self

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        """Return the layers of the stages."""
        layers = resolve_layers(self.layers, num_layers)
        if layers[-1] == num_layers - 1:
            raise ConfigError(
                f"pyramid_drop: layer {self.layers[-1]} is the last of {num_layers} layers, and no "
                f"layer comes next to rank by: use at most {num_layers - 2}."
            )
        return layers

    def needs(self) -> Needs:
        """Ask for the next layer's own norm and projections."""
        return Needs(next_layer=True)

    def ratio_at(self, layer: int, num_layers: int) -> float:
        """Return the ratio that belongs to ``layer``."""
        if not isinstance(self.ratios, tuple):
            return self.ratios
        return self.ratios[self.acts_after(num_layers).index(layer)]

    def score(self, view: View) -> Tensor:
        """Return ``[n]`` attention the last token would pay in the next layer, mean over heads."""
        return view.attention("last", layer="next")
