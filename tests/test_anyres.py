"""Base views and tiles, against the models' own way of cutting the padding off."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tokenreduce.anyres import base_view, tiled_images, tiled_views
from tokenreduce.layout import Role
from tokenreduce.placement import Grid

NEXT = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
ONEVISION = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]
SIZES = [(336, 336), (1080, 1920), (1920, 1080), (480, 640), (1, 1), (336, 337), (37, 4000)]
SIZES += [(13 * n % 1009 + 20, 29 * n % 1511 + 20) for n in range(1, 120)]


def config(size: int, patch: int, pinpoints: list[list[int]]) -> Any:
    vision = SimpleNamespace(image_size=size, patch_size=patch)
    return SimpleNamespace(vision_config=vision, image_grid_pinpoints=pinpoints)


def own_rows_and_columns(size: tuple[int, int], side: int, tile: int, points: Any) -> Any:
    """Cut a picture of zeros as LLaVA-NeXT does."""
    from transformers.models.llava_next.modeling_llava_next import (
        get_anyres_image_grid_shape,
        unpad_image,
    )

    rows, columns = get_anyres_image_grid_shape(size, points, tile)
    return tuple(unpad_image(torch.zeros(1, rows * side, columns * side), size).shape[1:])


@pytest.mark.parametrize(
    ("tile", "patch", "points"), [(336, 14, NEXT), (384, 14, ONEVISION), (384, 16, ONEVISION)]
)
def test_views_are_as_large_as_the_models(tile: int, patch: int, points: Any) -> None:
    seen = set()
    for size in SIZES:
        base, *fine = tiled_views(config(tile, patch, points), *size)
        assert base == Grid(1, tile // patch, tile // patch)
        rows, columns = own_rows_and_columns(size, tile // patch, tile, points)
        row = [[Grid(1, 1, columns, 1, number), Role.NEWLINE] for number in range(rows)]
        assert fine == [part for parts in row for part in parts]
        seen.add((rows, columns))
    assert len(seen) > 20


def test_only_newlines_are_left_of_a_picture_that_is_thinner_than_a_token() -> None:
    size = (4000, 5)
    assert own_rows_and_columns(size, 24, 336, NEXT) == (72, 0)
    assert tiled_views(config(336, 14, NEXT), *size) == (Grid(1, 24, 24), *[Role.NEWLINE] * 72)


def test_a_large_view_is_shrunk_to_a_number_of_tiles() -> None:
    """By hand: 36 tiles of 27 x 27 tokens are shrunk by the root of 36 / 9, to half of 162."""
    parts = tiled_views(config(384, 14, ONEVISION), 2304, 2304, largest=9)
    grids = [part for part in parts[1:] if isinstance(part, Grid)]
    assert [grid.columns for grid in grids] == [81] * 81
    assert len(tiled_views(config(384, 14, ONEVISION), 2304, 2304)) == 1 + 2 * 162
    # A tenth more than 9 tiles is left alone: 3 x 3 tiles here.
    assert len(tiled_views(config(384, 14, ONEVISION), 1152, 1152, largest=9)) == 1 + 2 * 81


def test_images_of_a_batch_come_in_order() -> None:
    given = config(336, 14, NEXT)
    items = list(tiled_images(given, {"image_sizes": torch.tensor([[336, 336], [10, 900]])}))
    assert items == [tiled_views(given, 336, 336), tiled_views(given, 10, 900)]
    assert list(tiled_images(given, {})) == []


def test_a_base_view_is_of_the_frame_that_is_asked_for() -> None:
    assert base_view(config(224, 14, []), 3) == Grid(1, 16, 16, 3)
