"""Prompts of families that write the tiles of an image, or the frames of a video, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from tests.adapters.family import Cell, Inputs, noise, padded
from tests.adapters.llavas import SIZE

SIDE = 2  # tokens per side of a tile: 4 x 4 patches, joined 2 x 2
TILE = SIDE**2
CELL = SIZE // SIDE  # pixels

Place = tuple[int, int, int, int]
"""Item and frame of a tile, and row and column of its first token."""


def prompt(tokenizer: Any, *texts: str) -> Inputs:
    """Return ids and mask of prompts as words."""
    return padded([tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts])


def disturbed(
    inputs: Inputs, tiles: list[tuple[tuple[int, ...], Place]], name: str = "pixel_values"
) -> Iterator[tuple[Inputs, int, Cell]]:
    """Disturb the pixels of one cell after another.

    Parameters
    ----------
    inputs
        Of a prompt of one sample.
    tiles
        Where the pixels of each tile are in ``inputs[name]``, and its place in the layout.
    """
    for where, (item, frame, top, left) in tiles:
        for row in range(SIDE):
            for column in range(SIDE):
                pixels = inputs[name].clone()
                pixels[where][
                    :, CELL * row : CELL * (row + 1), CELL * column : CELL * (column + 1)
                ] += 5
                yield {**inputs, name: pixels}, 0, (item, frame, top + row, left + column)


def pixels(*leading: int, seed: int = 1) -> torch.Tensor:
    """Return tiles."""
    return noise(*leading, 3, SIZE, SIZE, seed=seed)
