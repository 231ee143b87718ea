"""Temporal average: neighbouring frames become one, position by position."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from tokenreduce.plan import Plan
from tokenreduce.reducer import Layer, Reducer
from tokenreduce.schedule import resolve_layers

if TYPE_CHECKING:
    from tokenreduce.view import View


class TemporalAverage(Reducer):
    """Average each position of two neighbouring frames into one token, after a few layers.

    Why it works: uniformly sampled frames of one shot show nearly the same thing at the same place.
    It looks at neither the question nor the picture: the control for what a score is worth in time.

    Source: the shrinking paper's table 3 (2 -> 1 after the 12th and the 20th of 32 layers).

    Where we differ
    ---------------
    - The paper does not say what happens to an odd number of frames: a last frame without a
      neighbour stays as it is, so 5 frames become 3.
    - The neighbours of a position are its surviving tokens in order of time, two by two. On a
      regular grid these are frames 0 and 1, 2 and 3, ...; where an earlier reducer left gaps, the
      next one that is left takes the place of the one that is gone.
    - Videos are never averaged with each other, and images (one frame) stay as they are.
    - The mean is weighted by how many original tokens each one stands for, and carries the position
      of its first member.

    Parameters
    ----------
    layers
        Layers after which to halve, in ascending order; 12/32 and 20/32 of the depth. One entry
        halves once: the schedule has no other knob, so there is nothing for a budget solver.
    """

    name: ClassVar[str] = "temporal_average"

    layers: tuple[Layer, ...] = Field(
        (12 / 32, 20 / 32),
        min_length=1,
        description="layers after which neighbouring frames are averaged 2 -> 1, ascending: "
        "0-based indices (-1: before the first layer) or fractions of depth",
    )

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        """Return the layers to act after."""
        return resolve_layers(self.layers, num_layers)

    def plan(self, view: View) -> Plan | None:
        """Merge the tokens of every position two by two."""
        if len(view) == 0:
            return None
        line = view.item * (view.row.max() + 1) + view.row
        line = line * (view.column.max() + 1) + view.column  # [n] one number per position
        plan = Plan.windows(line, 2, note="averaged over frames")
        return plan if plan.kept < len(view) else None
