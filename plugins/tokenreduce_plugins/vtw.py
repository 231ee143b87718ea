"""VTW: withdraw all visual tokens half way through."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from tokenreduce.plan import DROPPED, Plan
from tokenreduce.reducer import Layer, Reducer
from tokenreduce.schedule import resolve_layer

if TYPE_CHECKING:
    from tokenreduce.view import View


class Vtw(Reducer):
    """Withdraw every visual token after one layer.

    Why it works: by half of the depth the text has read the picture; deeper layers hardly look at
    the visual tokens again, and go on with what has moved into the words.

    Source: Lin et al. 2024, "Boosting Multimodal Large Language Models with Visual Tokens
    Withdrawal for Rapid Inference" (arXiv 2405.05803); public code: lzhxmu/VTW. The 7B model keeps
    the tokens for its first 16 of 32 layers.

    Where we differ
    ---------------
    - The paper finds the layer for each task: the first after which withdrawal hardly changes the
      output distribution on a few samples. Here it is a setting; half of the depth by default.
    - Newlines, separators and CLS tokens of an item go together with its last grid token.

    Parameters
    ----------
    layer
        Layer after which to withdraw; 16/32 of depth. There is no other knob, and a layer moves
        the budget in steps, so there is nothing for a budget solver.
    """

    name: ClassVar[str] = "vtw"

    layer: Layer = Field(
        16 / 32,
        description="layer after which all visual tokens go: a 0-based index (-1: before the "
        "first, so that the model answers blind), or a fraction of the depth",
    )

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        """Return the one layer to act after."""
        return (resolve_layer(self.layer, num_layers),)

    def plan(self, view: View) -> Plan | None:
        """Drop everything."""
        import torch

        return Plan(torch.full_like(view.index, DROPPED), note="all") if len(view) else None
