"""VAS: remove the frames or positions whose attention from the text keeps shrinking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tokenreduce.errors import ConfigError
from tokenreduce.plan import DROPPED, Plan
from tokenreduce.reducer import Layer, Needs, Ratio, Reducer
from tokenreduce.schedule import exact, keep_count, resolve_layer

if TYPE_CHECKING:
    from torch import Tensor

    from tokenreduce.view import View


class Vas(Reducer):
    """Visual Attention Shrinking: follow the text's attention over layers, remove what fades.

    Why it works: from layer to layer the question settles on some frames and places; relative to
    these the others lose attention steadily, and the model itself says what it will not need.

    Source: "On Exploring Visual Attention Shrinking for Accelerating VLMs for Video Understanding"
    (OpenReview oS79Tw3G0c), algorithm 1. No public code.

    Where we differ, and what the paper leaves open
    -----------------------------------------------
    - Levels are means over a group's tokens: on a regular grid the paper's sums up to a constant,
      and fair to groups of unequal size (several videos, a grid with gaps).
    - ``levels`` relative divides by the total over groups, in trigger and score: the finding of the
      paper is about relative levels. Absolute is the letter of its algorithm.
    - ``auto``, triggered or forced, takes the axis with the larger share of shrinking groups, of
      those that can lose a group at all (an image has one frame); frames, if equal.
    - The share to remove is rounded to whole groups; where these differ in size, the lowest go
      while the tokens removed stay within the share. One group always stays.
    - Where there are fewer than two earlier layers, the first one is repeated: nothing can trigger.
    - ``start_layer`` is unreadable in the paper; 9/32 follows from its memory figures.

    Parameters
    ----------
    ratio, interval
        Share of the current tokens to remove each time; layers without reduction that force one.
    start_layer, end_layer
        First and last layer to be asked after; None: the last index minus 4.
    axis, trigger_share, coefficients, levels, drop_all_at_end
        What goes, when, and by which score: see the fields' descriptions.
    """

    name: ClassVar[str] = "vas"
    budget_fields: ClassVar[Mapping[str, tuple[float, float]]] = {
        "ratio": (0.0, 0.95),
        # Few frames leave few steps to the ratio; how often it acts fills in between them.
        "trigger_share": (0.0, 1.0),
    }

    ratio: Ratio = Field(0.3, description="share of the current tokens to remove, in [0, 1)")
    interval: int = Field(
        3, ge=1, description="layers without a reduction (from the network's start) that force one"
    )
    start_layer: Layer = Field(
        9 / 32, description="first layer to be asked after: a 0-based index or a fraction of depth"
    )
    end_layer: Layer | None = Field(
        None, description="last layer to be asked after; null: the last layer's index minus 4"
    )
    axis: Literal["auto", "frames", "positions", "tokens"] = Field(
        "auto",
        description="what is removed: whole 'frames', grid 'positions' (in all frames), 'auto': of "
        "the two the one that shrinks more; or single 'tokens', which keeps no grid",
    )
    trigger_share: float | None = Field(
        None,
        ge=0,
        le=1,
        description="reduce when more than this share of the groups shrank twice in a row; null: "
        "the ratio; 1: only when forced",
    )
    coefficients: tuple[float, float, float] = Field(
        (1, -1, 1), description="weights of a group's level after this layer and the two before"
    )
    levels: Literal["relative", "absolute"] = Field(
        "relative", description="attention of a group 'relative' to all groups, or 'absolute'"
    )
    drop_all_at_end: bool = Field(
        False, description="remove every visual token that is left at end_layer"
    )

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        """Return every layer from the first to the last."""
        first = resolve_layer(self.start_layer, num_layers)
        last = num_layers - 5
        if self.end_layer is not None:
            last = resolve_layer(self.end_layer, num_layers)
        if not 0 <= first <= last:
            raise ConfigError(
                f"vas: start_layer {self.start_layer} (index {first}) to end_layer "
                f"{self.end_layer} (index {last}) is no range from 0 upwards on {num_layers} "
                "layers: write two indices in order."
            )
        return tuple(range(first, last + 1))

    def needs(self) -> Needs:
        """Ask for the text's attention after this layer and the two before."""
        return Needs(attention=frozenset({"text"}), history=2)

    def plan(self, view: View) -> Plan | None:
        """Remove the lowest groups of one axis, if triggered or forced."""
        import torch

        if len(view) == 0:
            return None
        if self.drop_all_at_end and view.layer == self.acts_after(view.num_layers)[-1]:
            return Plan(torch.full_like(view.index, DROPPED), note="end: all")
        # float64 on the CPU: a sum of attention must not depend on a kernel's order of adding.
        layers = [view.attention("text", back=min(back, view.layer)) for back in range(3)]
        maps = torch.stack(layers).to("cpu", torch.float64)  # [3, n] this layer first
        names = ("frames", "positions") if self.axis == "auto" else (self.axis,)
        axes = [self._weigh(name, _groups(name, view), maps) for name in names]
        trigger = exact(self.ratio if self.trigger_share is None else self.trigger_share)
        forced = view.layers_since_reduction >= self.interval
        if not forced and all(axis.share <= trigger for axis in axes):
            return None
        able = [axis for axis in axes if self._stay(axis) < len(axis.size)]
        if not able:
            return None
        axis = max(able, key=lambda each: each.share)  # frames, the first, if equal
        triggered = axis.share > trigger
        if not triggered and not forced:
            return None
        kept = torch.zeros(len(axis.size), dtype=torch.bool)
        kept[axis.rank[: self._stay(axis)]] = True
        keep, scores = (each[axis.group].to(view.index.device) for each in (kept, axis.score))
        note = f"{'triggered' if triggered else 'forced'}: {axis.name}"
        return Plan.where(keep, scores=scores, note=note)

    def _weigh(self, name: str, group: Tensor, maps: Tensor) -> _Axis:
        """Find the levels of the groups of one axis, and how many of them shrink."""
        import torch

        size = torch.bincount(group)  # [groups] tokens
        levels = maps.new_zeros(3, len(size)).index_add_(1, group, maps) / size
        if self.levels == "relative":
            levels /= levels.sum(dim=1, keepdim=True).clamp_min(1e-30)
        now, before, first = levels
        shrinking = int(((first > before) & (before > now)).sum())
        share = Fraction(shrinking, len(size))
        return _Axis(name, share, group, size, levels, self.coefficients)

    def _stay(self, axis: _Axis) -> int:
        """Return how many groups would stay."""
        size = axis.size
        if bool((size == size[0]).all()):
            return keep_count(len(size), self.ratio)
        quota = len(axis.group) - keep_count(len(axis.group), self.ratio)
        return int((size[axis.rank].flip(0).cumsum(0) > quota).sum())


@dataclass(frozen=True, eq=False)
class _Axis:
    """One axis weighed.

    Attributes
    ----------
    name, share
        Its name, and the share of its groups that shrink.
    group
        ``[n]`` the group of each token.
    size
        ``[groups]`` tokens.
    levels, coefficients
        ``[3, groups]`` levels, this layer's first, and their weights in the score.
    """

    name: str
    share: Fraction
    group: Tensor
    size: Tensor
    levels: Tensor
    coefficients: tuple[float, float, float]

    @cached_property
    def score(self) -> Tensor:
        """``[groups]`` scores, higher = keep."""
        now, before, first = self.levels
        c0, c1, c2 = self.coefficients
        score: Tensor = c0 * now + c1 * before + c2 * first
        return score

    @cached_property
    def rank(self) -> Tensor:
        """``[groups]`` the groups in their order, the best first."""
        return self.score.argsort(descending=True, stable=True)


def _groups(axis: str, view: View) -> Tensor:
    """Return ``[n]`` the number of the frame, position or token that each token belongs to."""
    import torch

    if axis == "tokens":
        return torch.arange(len(view))
    if axis == "frames":
        group = view.item * (view.frame.max() + 1) + view.frame
    else:
        group = view.item * (view.row.max() + 1) + view.row
        group = group * (view.column.max() + 1) + view.column
    group = group.cpu()
    numbers: Tensor = (torch.bincount(group) > 0).cumsum(0) - 1  # [highest group] without gaps
    return numbers[group]
