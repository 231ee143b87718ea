"""Random: drop tokens by lot, the control that any score must beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from tokenreduce.errors import ConfigError
from tokenreduce.reducer import Layer, Ratio, ScoringReducer
from tokenreduce.schedule import resolve_layers

if TYPE_CHECKING:
    from torch import Tensor

    from tokenreduce.view import View


class Random(ScoringReducer):
    """Drop a random share of the current visual tokens after each of a few layers.

    Why it works: neighbouring visual tokens say nearly the same, so chance alone keeps a sample of
    everything. What a method gains over this is what its score is worth.

    Source: the shrinking paper's table 3 (half of the current tokens after the 12th and the 20th of
    32 layers).

    Where we differ
    ---------------
    - The paper gives no seed and no word on batches. Here the lot is drawn from the run's seed, the
      layer and the sample's own prompt: the same sample gets the same plan in any batch and beam,
      and two samples get different ones.
    - Layers are fractions of the depth by default, so that 28 and 60 layers mean the same.
    - Counts are rounded half up and never reach zero.

    Parameters
    ----------
    layers
        Layers after which to drop, in ascending order; 12/32 and 20/32 of the depth.
    ratios
        Share of the current visual tokens to drop: one number for all layers, or one for each.
    """

    name: ClassVar[str] = "random"
    budget_fields: ClassVar[Mapping[str, tuple[float, float]]] = {"ratios": (0.0, 0.99)}

    layers: tuple[Layer, ...] = Field(
        (12 / 32, 20 / 32),
        min_length=1,
        description="layers after which to drop, ascending: 0-based indices or fractions of depth",
    )
    ratios: Ratio | tuple[Ratio, ...] = Field(
        0.5,
        description="share of the current visual tokens to drop, in [0, 1): one number for all "
        "layers, or a list with one for each",
    )

    @model_validator(mode="after")
    def _pairs(self) -> Random:
        if isinstance(self.ratios, tuple) and len(self.ratios) != len(self.layers):
            raise ConfigError(
                f"random: {len(self.ratios)} ratios for {len(self.layers)} layers: give one "
                "ratio for all, or one for each layer."
            )
        return self

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        """Return the layers to act after."""
        return resolve_layers(self.layers, num_layers)

    def ratio_at(self, layer: int, num_layers: int) -> float:
        """Return the ratio that belongs to ``layer``."""
        if not isinstance(self.ratios, tuple):
            return self.ratios
        return self.ratios[self.acts_after(num_layers).index(layer)]

    def score(self, view: View) -> Tensor:
        """Return ``[n]`` places in a random order: no two equal, so every subset is as likely."""
        import torch

        places = torch.randperm(len(view), generator=view.generator)
        return places.to(view.index.device, torch.float32)
