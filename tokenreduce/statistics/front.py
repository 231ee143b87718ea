"""The Pareto front: what nothing else beats at its cost."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(costs: Sequence[float], gains: Sequence[float]) -> list[int]:
    """Return the indices of the points that no other point dominates, cheapest first.

    A point is dominated by one that costs no more and gains no less, and is better in at least one
    of the two. Equal points stand or fall together. How sure the numbers are plays no part.

    Parameters
    ----------
    costs, gains
        Of each point; a small cost and a large gain are good.

    Raises
    ------
    ValueError
        If the lengths differ.
    """
    if len(costs) != len(gains):
        raise ValueError(f"{len(costs)} costs and {len(gains)} gains are no points.")
    front: list[int] = []
    for index in sorted(range(len(costs)), key=lambda i: (costs[i], -gains[i])):
        last = front[-1] if front else None
        if (
            last is None
            or gains[index] > gains[last]
            or (costs[index], gains[index]) == (costs[last], gains[last])
        ):
            front.append(index)
    return front
