"""Figures of accuracy against what it costs, with intervals and the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tokenreduce.pictures.figures import (
    COLOURS,
    INK,
    MARKERS,
    look,
    new_figure,
    plain,
    tidy,
)
from tokenreduce.pictures.labels import Stroke, add_labels
from tokenreduce.statistics import pareto_front

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Interval = tuple[float, float]
DIRECT = 9  # most rows whose labels stand beside their points; more are numbered


@dataclass(frozen=True, slots=True)
class Axis:
    """What accuracy is drawn against.

    Attributes
    ----------
    name
        Of its files.
    title
        With its unit.
    more_is_better
        Which way is cheaper.
    """

    name: str
    title: str
    more_is_better: bool = False


AXES = {
    "img_memory": Axis(
        "img_memory", "Img-Memory (visual tokens in the KV cache, share of the unreduced)"
    ),
    "flops": Axis("flops", "FLOPs of the prefill (share of the unreduced)"),
    "ttft_speedup": Axis("ttft", "TTFT speedup (unreduced / reduced)", more_is_better=True),
}


@dataclass(frozen=True, slots=True)
class Point:
    """One row of a table.

    Attributes
    ----------
    label, family
        Name of the row, and of the rows that get the same colour.
    cost, accuracy
        Where it is drawn.
    cost_interval, accuracy_interval
        How sure they are.
    """

    label: str
    family: str
    cost: float
    accuracy: float
    cost_interval: Interval | None = None
    accuracy_interval: Interval | None = None


def tradeoff(points: Sequence[Point], axis: Axis, title: str = "") -> Figure:
    """Draw accuracy against a cost.

    Parameters
    ----------
    points
        At least one. Up to nine have their labels beside them; more are numbered, with the labels
        in a legend.
    axis
        What the cost is.
    title
        Above the figure.
    """
    many = len(points) > DIRECT
    columns = 0 if not many else 1 if len(points) <= 24 else 2
    with look():
        figure = new_figure(5.6 + 2.2 * columns, 4.0)
        axes = figure.subplots()
        handles = [_draw(axes, *numbered) for numbered in _styled(points)]
        strokes = [*_draw_front(axes, points, axis), *_bars(points)]
        tidy(axes)
        axes.margins(x=0.08 if many else 0.16, y=0.08)  # labels need room at the sides
        axes.set_xlabel(axis.title)
        axes.set_ylabel("accuracy (share of answered questions)")
        if title:
            axes.set_title(plain(title), loc="left", fontsize=9)
        if many:
            names = [f"{n}  {plain(p.label)}" for n, p in enumerate(points, 1)]
            figure.legend(
                handles,
                names,
                loc="outside right upper",
                ncols=columns,
                fontsize=6.5,
                frameon=False,
                handletextpad=0.2,
                columnspacing=1.0,
            )
        axes.autoscale_view()
        axes.autoscale(False)
        labels = [str(n) if many else plain(p.label) for n, p in enumerate(points, 1)]
        places = [(p.cost, p.accuracy) for p in points]
        add_labels(axes, places, labels, strokes, 6.5 if many else 8)
    return figure


def _styled(points: Sequence[Point]) -> list[tuple[Point, str, str]]:
    """Give every family a colour and a marker; together they are not used twice for 63 of them."""
    families = list(dict.fromkeys(point.family for point in points))
    number = {family: n for n, family in enumerate(families)}
    return [
        (p, COLOURS[number[p.family] % len(COLOURS)], MARKERS[number[p.family] % len(MARKERS)])
        for p in points
    ]


def _draw(axes: Axes, point: Point, colour: str, marker: str) -> Any:
    axes.errorbar(
        point.cost,
        point.accuracy,
        xerr=_error(point.cost, point.cost_interval),
        yerr=_error(point.accuracy, point.accuracy_interval),
        fmt="none",
        ecolor=colour,
        elinewidth=0.8,
        alpha=0.45,
    )
    (handle,) = axes.plot(
        point.cost,
        point.accuracy,
        marker,
        color=colour,
        markersize=6,
        markeredgecolor="white",
        markeredgewidth=0.6,
        zorder=3,
    )
    return handle


def _error(value: float, interval: Interval | None) -> list[list[float]] | None:
    if interval is None:
        return None
    return [[max(0.0, value - interval[0])], [max(0.0, interval[1] - value)]]


def _bars(points: Sequence[Point]) -> list[Stroke]:
    """Return the intervals as strokes that labels keep away from."""
    strokes: list[Stroke] = []
    for p in points:
        if p.accuracy_interval is not None:
            strokes.append(((p.cost, p.accuracy_interval[0]), (p.cost, p.accuracy_interval[1])))
        if p.cost_interval is not None:
            strokes.append(((p.cost_interval[0], p.accuracy), (p.cost_interval[1], p.accuracy)))
    return strokes


def _draw_front(axes: Axes, points: Sequence[Point], axis: Axis) -> list[Stroke]:
    """Draw what no row beats in both at once, and return the strokes.

    How sure the numbers are plays no part.
    """
    costs = [1 / p.cost if axis.more_is_better else p.cost for p in points]
    front = [points[i] for i in pareto_front(costs, [p.accuracy for p in points])]
    if axis.more_is_better:
        front.reverse()
    corners = [(front[0].cost, front[0].accuracy)]
    for before, after in pairwise(front):
        # Between two of them there is what the one with less accuracy has.
        low = min(before.accuracy, after.accuracy)
        turn = before if before.accuracy > after.accuracy else after
        corners += [(turn.cost, low), (after.cost, after.accuracy)]
    axes.plot(
        [x for x, _ in corners],
        [y for _, y in corners],
        color=INK,
        linewidth=1,
        linestyle=(0, (4, 2)),
        zorder=1,
    )
    axes.text(0.99, 0.01, "dashed: Pareto front", transform=axes.transAxes, fontsize=7, ha="right")
    return list(pairwise(corners))
