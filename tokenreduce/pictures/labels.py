"""Places labels beside points so that they cover neither each other nor the points."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import hypot
from typing import TYPE_CHECKING, Any

from tokenreduce.pictures.figures import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Box = tuple[float, float, float, float]
"""(left, bottom, right, top) in pixels."""

Stroke = tuple[tuple[float, float], tuple[float, float]]
"""Both ends of a level or upright line, in data coordinates."""

_DIRECTIONS = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
_DISTANCES = (5.0, 12.0, 22.0, 34.0, 50.0)  # points from the marker to the label's nearest edge
_GAP = 3.0  # pixels that labels keep between them
_MARKER = 4.0  # points, half of its width


def add_labels(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    labels: Sequence[str],
    strokes: Sequence[Stroke],
    size: float,
) -> None:
    """Write a label beside each point, where there is room, with a line to it if it is far.

    Parameters
    ----------
    axes
        Whose limits do not change any more.
    points
        In data coordinates.
    labels
        One for each.
    strokes
        Lines that are not to be written over.
    size
        Of the letters, in points.
    """
    from matplotlib.text import Text

    figure: Any = axes.figure
    # The layout moves the axes when the figure is drawn: what is measured must be the last state.
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    scale = figure.dpi / 72
    centres = [tuple(axes.transData.transform(point)) for point in points]
    reach = _MARKER * scale
    taken: list[Box] = [(x - reach, y - reach, x + reach, y + reach) for x, y in centres]
    taken += [_thick(axes.transData.transform(stroke), 2 * scale) for stroke in strokes]
    placed: list[Box] = []
    frame = axes.get_window_extent(renderer)
    for point, centre, label in zip(points, centres, labels, strict=True):
        text = axes.annotate(
            label,
            point,
            (0, 0),
            textcoords="offset points",
            fontsize=size,
            color=INK,
            ha="center",
            va="center",
            arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.4, "shrinkA": 0},
        )
        extent = Text.get_window_extent(text, renderer)  # without the line to the point
        _, (x, y), box = min(
            _choices(centre, (extent.width, extent.height), scale, taken, placed, frame.extents),
            key=lambda choice: choice[0],
        )
        placed.append((box[0] - _GAP, box[1] - _GAP, box[2] + _GAP, box[3] + _GAP))
        offset = ((x - centre[0]) / scale, (y - centre[1]) / scale)
        text.set_position(offset)
        text.set_in_layout(False)
        gap = hypot(*(max(0.0, abs(o) - e / 2 / scale) for o, e in _sides(offset, extent)))
        if gap < 2 * _DISTANCES[0] and text.arrow_patch is not None:
            text.arrow_patch.set_visible(False)


def _sides(offset: tuple[float, float], extent: Any) -> list[tuple[float, float]]:
    return [(offset[0], extent.width), (offset[1], extent.height)]


def _choices(
    centre: tuple[float, ...],
    size: tuple[float, float],
    scale: float,
    taken: Sequence[Box],
    placed: Sequence[Box],
    frame: Sequence[float],
) -> list[tuple[float, tuple[float, float], Box]]:
    """Return ``(cost, centre, box)`` of each place that a label may stand at."""
    width, height = size
    found = []
    for distance, (across, up) in product(_DISTANCES, _DIRECTIONS):
        x = centre[0] + across * (distance * scale + width / 2)
        y = centre[1] + up * (distance * scale + height / 2)
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        # Two labels over each other cannot be read; one over a line can.
        covered = sum(_overlap(box, other) for other in taken)
        covered += 10 * sum(_overlap(box, other) for other in placed)
        outside = width * height - _overlap(box, (frame[0], frame[1], frame[2], frame[3]))
        found.append((covered + 4 * outside + 3 * distance * scale, (x, y), box))
    return found


def _thick(ends: Any, reach: float) -> Box:
    (left, bottom), (right, top) = ends.min(axis=0) - reach, ends.max(axis=0) + reach
    return float(left), float(bottom), float(right), float(top)


def _overlap(one: Box, other: Box) -> float:
    """Return the area that two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)
