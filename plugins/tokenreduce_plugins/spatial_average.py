"""Spatial average: neighbouring tokens of a frame become one."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tokenreduce.plan import Plan
from tokenreduce.reducer import Layer, Reducer
from tokenreduce.schedule import resolve_layers

if TYPE_CHECKING:
    from torch import Tensor

    from tokenreduce.view import View


class SpatialAverage(Reducer):
    """Average two neighbouring tokens of a frame into one, after each of a few layers.

    Why it works: neighbouring patches of a frame look alike, and the mean of two is a coarser
    picture. It looks at neither the question nor the picture: the control for what a score is worth
    in space.

    Source: the shrinking paper's table 3 (2 -> 1 after the 12th and the 20th of 32 layers).

    Where we differ
    ---------------
    - The paper does not say which neighbour. ``auto`` pairs along the side that has more cells
      left, columns first: 14 x 14 becomes 14 x 7, then 7 x 7, so two phases make square cells and
      keep exactly a half and a quarter. ``columns`` and ``rows`` pair along one side only.
    - Nor what happens to an odd size: the last cell of a line stays as it is, so 7 become 4.
    - The neighbours of a line are its surviving tokens, two by two; where an earlier reducer left
      gaps, the next one that is left takes the place of the one that is gone.
    - The mean is weighted by how many original tokens each one stands for, and carries the position
      of its first member.

    Parameters
    ----------
    layers
        Layers after which to halve, in ascending order; 12/32 and 20/32 of the depth. One entry
        halves once: the schedule has no other knob, so there is nothing for a budget solver.
    axis
        Along which side neighbours are paired.
    """

    name: ClassVar[str] = "spatial_average"

    layers: tuple[Layer, ...] = Field(
        (12 / 32, 20 / 32),
        min_length=1,
        description="layers after which neighbours in a frame are averaged 2 -> 1, ascending: "
        "0-based indices (-1: before the first layer) or fractions of depth",
    )
    axis: Literal["auto", "columns", "rows"] = Field(
        "auto",
        description="pair neighbouring 'columns' (left and right), 'rows' (above and below), or "
        "'auto': whichever the image or video has more of left",
    )

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        """Return the layers to act after."""
        return resolve_layers(self.layers, num_layers)

    def plan(self, view: View) -> Plan | None:
        """Merge the tokens of every line of every frame two by two."""
        if len(view) == 0:
            return None
        lane = self._lane(view)  # [n] the row, or the column, in which a token finds its neighbour
        line = view.item * (view.frame.max() + 1) + view.frame
        line = line * (lane.max() + 1) + lane  # [n] one number per lane of each frame
        plan = Plan.windows(line, 2, note=f"averaged over {self.axis} neighbours")
        return plan if plan.kept < len(view) else None

    def _lane(self, view: View) -> Tensor:
        """Return ``[n]`` the coordinate that two neighbours share."""
        if self.axis != "auto":
            return view.row if self.axis == "columns" else view.column
        wide = _cells_left(view.item, view.column) >= _cells_left(view.item, view.row)
        return view.row.where(wide, view.column)


def _cells_left(item: Tensor, cell: Tensor) -> Tensor:
    """Return ``[n]`` how many different rows (or columns) are left of each token's item."""
    import torch

    width = cell.max() + 1
    lines = torch.unique(item * width + cell)
    return torch.bincount(lines // width)[item]
