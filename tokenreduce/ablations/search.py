"""Finds the step of a function on integers at which its value is nearest to a target.

Shares of tokens are step functions of a setting. Where they follow from counts alone they are
monotone, and bisection finds the very step. Where they are means over data they are noisy and
jump; there the root finder has to stand that.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

ShareAt = Callable[[int], float]
"""The share at a step."""

SCANNED = 5
"""Intervals to look into where the ends alone do not lead to the target."""


class Steps:
    """A function on the steps 0 to ``last``; remembers what it was asked.

    Parameters
    ----------
    share_at
        The function.
    last
        Its highest step.
    target
        The value that is looked for.
    """

    def __init__(self, share_at: ShareAt, last: int, target: float) -> None:
        self._share_at, self.last, self.target = share_at, last, target
        self.seen: dict[int, float] = {}

    def gap(self, step: int) -> float:
        """Return how far above the target the function is."""
        if step not in self.seen:
            self.seen[step] = self._share_at(step)
        return self.seen[step] - self.target

    def between(self, low: int, high: int) -> bool:
        """Return whether one of two steps is above the target, and the other is not."""
        return (self.gap(low) > 0) != (self.gap(high) > 0)

    @property
    def best(self) -> int:
        """The step that came nearest; of two as near the one below the target, then the first."""
        return min(self.seen, key=lambda step: (abs(self.gap(step)), self.gap(step), step))

    @property
    def next_below(self) -> int | None:
        """Of the steps asked for, the one with the greatest value up to the target."""
        below = [step for step in self.seen if self.gap(step) <= 0]
        return max(below, key=self.gap, default=None)

    @property
    def next_above(self) -> int | None:
        """Of the steps asked for, the one with the smallest value above the target."""
        above = [step for step in self.seen if self.gap(step) > 0]
        return min(above, key=self.gap, default=None)


def nearest_exact(steps: Steps) -> int:
    """Return the nearest step of a monotone function, by bisection to two neighbouring steps."""
    low, high = 0, steps.last
    if steps.between(low, high):
        while high - low > 1:
            middle = (low + high) // 2
            if steps.between(low, middle):
                high = middle
            else:
                low = middle
    return steps.best


def nearest_calibrated(steps: Steps, near: float, tolerance: float, grain: int = 1) -> int:
    """Return a step of a noisy function that is within ``near`` of the target, or the nearest seen.

    Brent's method keeps two steps with the target between them. So neither noise nor a jump leads
    it astray, as either would a method that trusts slopes or a single valley (``minimize_scalar``),
    and where the function is smooth it takes a few evaluations only. It ends at a jump over the
    target, if there is one. Where both ends lie on one side of the target and miss it by more than
    the tolerance, the function is looked at in between.

    Parameters
    ----------
    steps
        The function.
    near
        A gap at which to stop.
    tolerance
        A gap at which not to look elsewhere.
    grain
        Look at multiples of this many steps only, and at the ends.
    """
    if steps.between(0, steps.last):
        _close_in(steps, 0, steps.last, near, grain)
        return steps.best
    scanned = [round(part * steps.last / SCANNED) for part in range(SCANNED + 1)]
    for low, high in pairwise(scanned):
        if abs(steps.gap(steps.best)) <= tolerance:
            break
        if steps.between(low, high):
            _close_in(steps, low, high, near, grain)
    return steps.best


def _close_in(steps: Steps, low: int, high: int, near: float, grain: int) -> None:
    """Look at steps between two with the target between them, until one is near or they meet."""
    from scipy.optimize import brentq

    def gap(place: float) -> float:
        step = min(max(grain * round(place / grain), low), high)
        found = steps.gap(step)
        return 0.0 if abs(found) <= near else found

    brentq(gap, low, high, xtol=grain / 2)
