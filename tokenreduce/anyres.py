"""Pictures through a tower of one square size: a base view, and a finer view made of tiles."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from typing import Any

from tokenreduce.adapter import Inputs
from tokenreduce.layout import Role
from tokenreduce.placement import Grid, Item


def base_view(config: Any, frame: int = 0) -> Grid:
    """Return the tokens of one picture that fills the tower: a square grid.

    Parameters
    ----------
    config
        Of the model; its ``vision_config`` has ``image_size`` and ``patch_size``, in pixels.
    frame
        Number of the frame.
    """
    side = config.vision_config.image_size // config.vision_config.patch_size
    return Grid(1, side, side, frame)


def tiled_views(config: Any, height: int, width: int, largest: int | None = None) -> Item:
    """Return a picture's base view, then its high-resolution view with a newline after each row.

    The two are frames 0 and 1 of the item. The high-resolution view has as many rows and columns
    as are left of its tiles without the padding around the picture.

    Parameters
    ----------
    config
        Of the model; ``image_grid_pinpoints`` lists heights and widths that tiles can make, in
        pixels.
    height, width
        Of the picture as it was given, in pixels.
    largest
        Tiles; a view of clearly more is shrunk to as many. None: none is shrunk.
    """
    rows, columns = _unpadded(config, height, width)
    if largest is not None:
        tokens = largest * base_view(config).rows ** 2
        ratio = math.sqrt(rows * columns / tokens)
        if ratio > 1.1:
            rows, columns = int(rows // ratio), int(columns // ratio)
    # Of a picture that is thinner than half a token only the newlines are left.
    grids = [(Grid(1, 1, columns, 1, row),) if columns else () for row in range(rows)]
    return base_view(config), *chain.from_iterable((*grid, Role.NEWLINE) for grid in grids)


def tiled_images(config: Any, inputs: Inputs) -> Iterator[Item]:
    """Yield :func:`tiled_views` of each image of a batch, by ``image_sizes`` ``[images, 2]``."""
    sizes = inputs.get("image_sizes")
    for height, width in [] if sizes is None else sizes.tolist():
        yield tiled_views(config, height, width)


def _unpadded(config: Any, height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of the high-resolution view that show the picture."""
    from transformers.image_processing_utils import select_best_resolution

    tile, side = config.vision_config.image_size, base_view(config).rows
    tall, wide = select_best_resolution((height, width), config.image_grid_pinpoints)
    rows, columns = tall // tile * side, wide // tile * side
    # The tower sees padding to the tiles' shape; rounding is that of the model.
    if width / height > columns / rows:
        rows -= 2 * ((rows - int(round(height * (columns / width), 7))) // 2)
    else:
        columns -= 2 * ((columns - int(round(width * (rows / height), 7))) // 2)
    return rows, columns
