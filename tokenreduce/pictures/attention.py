"""Figures of where the question looks: frames over layers, without and with reduction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenreduce.pictures.figures import GONE, INK, look, new_figure, plain, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from tokenreduce.pictures.documents import Levels

SMOOTHED = 3  # layers
PANELS_ABREAST = 4
_STRIPES = 24  # most stripes that a frame's cell is cut into


def frame_levels(levels: Levels) -> NDArray[np.float64]:
    """Return ``[layers, frames]``: attention that each frame receives, summed over its tokens.

    NaN where a frame has no token of its own left.
    """
    values = _values(levels)
    present = ~np.isnan(values)
    member = _members(levels)
    sums = np.where(present, values, 0.0) @ member.T
    return np.where(present @ member.T, sums, np.nan)


def relative_levels(absolute: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each frame's level over the mean of the frames, smoothed over three layers.

    Parameters
    ----------
    absolute
        ``[layers, frames]``; NaN where a frame is gone.

    Returns
    -------
    numpy.ndarray
        ``[layers, frames]``; 1 = as much as the mean frame of the same layer. The first and last
        layer are means of two.
    """
    ratio = absolute / _mean(absolute, axis=1)[:, None]
    reach = SMOOTHED // 2
    windows = [ratio[max(0, k - reach) : k + reach + 1] for k in range(len(ratio))]
    smooth = np.stack([_mean(window, axis=0) for window in windows])
    return np.where(np.isnan(ratio), np.nan, smooth)


def frames_over_layers(levels: Levels, title: str = "") -> Figure:
    """Draw Figure 2 of the paper: levels of frames over layers, absolute and relative.

    Parameters
    ----------
    levels
        Of a prefill, usually without reduction.
    title
        Above the figure.
    """
    absolute = frame_levels(levels)
    relative = relative_levels(absolute)
    with look():
        figure = new_figure(6.8, 3.0)
        left, right = figure.subplots(1, 2)
        colours = _frame_colours(absolute.shape[1])
        for frame, colour in enumerate(colours):
            left.plot(levels.layers, absolute[:, frame], color=colour, linewidth=0.8, alpha=0.7)
            right.plot(levels.layers, relative[:, frame], color=colour, linewidth=1.2)
        mean = _mean(absolute, axis=1)
        left.plot(levels.layers, mean, color=INK, linewidth=2, label="mean over frames")
        right.axhline(1, color=INK, linewidth=0.8, linestyle=(0, (4, 2)))
        left.set_ylabel("attention of a text token\nto a frame (share)")
        right.set_ylabel(f"relative to the mean frame\n(smoothed over {SMOOTHED} layers)")
        left.legend(frameon=False, fontsize=7.5)
        for axes in (left, right):
            axes.set_xlabel("decoder layer")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.set_ylim(bottom=0)
            tidy(axes)
        _frame_bar(figure, [left, right], absolute.shape[1])
        if title:
            figure.suptitle(plain(title), x=0.01, ha="left", fontsize=9)
    return figure


def frames_by_row(panels: Mapping[str, Levels], title: str = "") -> Figure:
    """Draw Figure 3 of the paper: attention by frame and layer, removed parts grey.

    A frame's cell is filled from below as far as its tokens are left.

    Parameters
    ----------
    panels
        Levels of one question by what reduced them, the unreduced ones first.
    title
        Above the figure.
    """
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    cells = [_cells(levels) for levels in panels.values()]
    known = np.concatenate([each[each > 0] for each in cells])
    low, high = np.quantile(known, [0.02, 1.0]) if known.size else (0.1, 1.0)
    colours = colormaps["viridis"].with_extremes(bad=GONE)
    columns = min(len(panels), PANELS_ABREAST)
    rows = -(-len(panels) // columns)
    with look():
        figure = new_figure(1.2 + 2.4 * columns, 0.9 + 1.9 * rows)
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, (name, levels), values in zip(grid.flat, panels.items(), cells, strict=False):
            frames = _frames(levels)
            axes.imshow(
                values,
                norm=LogNorm(low, high),
                cmap=colours,
                aspect="auto",
                origin="lower",
                interpolation="nearest",
                extent=(levels.layers[0] - 0.5, levels.layers[-1] + 0.5, -0.5, frames - 0.5),
            )
            lines = np.arange(1, frames) - 0.5
            axes.hlines(lines, *axes.get_xlim(), color="white", linewidth=0.5)
            axes.set_title(plain(name), fontsize=8.5)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.yaxis.get_major_locator().set_params(integer=True)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for axes in grid.flat[max(0, len(panels) - columns) : len(panels)]:
            axes.xaxis.set_tick_params(labelbottom=True)
        # All panels share one scale: rows that are shown fewer frames leave the others white.
        frames = max(map(_frames, panels.values()))
        grid.flat[0].set_ylim(-0.5, frames - 0.5)
        layers = [layer for levels in panels.values() for layer in levels.layers]
        grid.flat[0].set_xlim(min(layers) - 0.5, max(layers) + 0.5)
        figure.supxlabel("decoder layer", fontsize=8.5)
        figure.supylabel("frame", fontsize=8.5)
        bar = figure.colorbar(
            grid.flat[0].images[0],
            ax=grid,
            pad=0.02,
            ticks=np.geomspace(low, high, 5),
            format="{x:.2g}",
        )
        bar.ax.minorticks_off()
        bar.set_label("attention of a text token\nto a visual token of the frame, mean")
        if title:
            figure.suptitle(plain(title), x=0.01, ha="left", fontsize=9)
    return figure


def _mean(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Return the mean of what is there; NaN, and no warning, where nothing is."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float64] = np.where(known, values, 0.0).sum(axis) / known.sum(axis)
    return mean


def _values(levels: Levels) -> NDArray[np.float64]:
    """Return ``[layers, patches]``, NaN where there is no token."""
    return np.array(levels.attention, dtype=np.float64)


def _frames(levels: Levels) -> int:
    return max(frame for frame, _, _ in levels.patches) + 1


def _members(levels: Levels) -> NDArray[np.bool_]:
    """Return ``[frames, patches]``: which patches belong to each frame."""
    frame = np.array([frame for frame, _, _ in levels.patches])
    members: NDArray[np.bool_] = np.arange(_frames(levels))[:, None] == frame
    return members


def _cells(levels: Levels) -> NDArray[np.float64]:
    """Return ``[frames * stripes, layers]``: a frame's mean, in as many stripes as it has left."""
    values, member = _values(levels), _members(levels)
    left = ~np.isnan(values) @ member.T.astype(float)  # [layers, frames] tokens
    sizes = member.sum(axis=1)
    stripes = min(_STRIPES, int(sizes.max()))
    with np.errstate(invalid="ignore"):
        mean = frame_levels(levels) / left
    # A frame with one token left still shows a stripe.
    filled = np.ceil(left / sizes * stripes)
    number = np.arange(stripes)
    cells = np.where(number < filled[..., None], mean[..., None], np.nan)
    return cells.reshape(len(values), -1).T


def _frame_colours(frames: int) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0, 0.9, frames))


def _frame_bar(figure: Figure, axes: list[Any], frames: int) -> None:
    """Explain the colours of frames."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    colours = ListedColormap(_frame_colours(frames))
    norm = BoundaryNorm(np.arange(frames + 1) - 0.5, frames)
    ticks = np.unique(np.linspace(0, frames - 1, min(frames, 5)).round().astype(int))
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, ticks=ticks, pad=0.02)
    bar.set_label("frame")
    bar.ax.minorticks_off()
