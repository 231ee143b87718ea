"""Ovis2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from tests.adapters.family import Cell, FamilyCase, Inputs, padded, ready
from tests.adapters.llavas import PATCH, SIZE, llama
from tests.adapters.tiled import SIDE, TILE, disturbed, pixels
from tokenreduce_model_adapters.ovis2 import Ovis2

IMAGE, START, GRID, COLUMN, ROW, END = range(120, 126)


def tiny_ovis2() -> Any:
    """Return a random Ovis2 of six layers."""
    from transformers import Ovis2Config, Ovis2ForConditionalGeneration, Ovis2VisionConfig

    torch.manual_seed(0)
    vision = Ovis2VisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=PATCH,
        vocab_size=64,
        hidden_stride=2,
        initializer_range=0.3,
    )
    config = Ovis2Config(
        vision_config=vision,
        text_config=llama(),
        image_token_id=IMAGE,
        visual_indicator_token_ids=[START, GRID, COLUMN, ROW, END],
        vocab_size=128,
        hidden_size=32,
        tie_word_embeddings=False,
    )
    model = ready(Ovis2ForConditionalGeneration(config))
    torch.nn.init.normal_(model.model.vision_tower.head_linear.weight)
    torch.nn.init.normal_(model.model.visual_embeddings_table.weight)
    return model


def picture(rows: int = 0, columns: int = 0) -> list[int]:
    """Return an image; no rows and columns: of its view alone."""
    tile = [IMAGE] * TILE
    found = [START, *tile, GRID]
    for row in range(rows):
        for column in range(columns):
            found += [*tile, *[COLUMN] * (column < columns - 1)]
        found += [ROW] * (row < rows - 1)
    return [*found, END]


def asked(*rows: list[int], tiles: int) -> Inputs:
    inputs = padded([[1, 2, *row, 3, 4, 5] for row in rows])
    return {**inputs, "pixel_values": pixels(tiles)} if tiles else inputs


def image() -> Inputs:
    return asked(picture(2, 3), tiles=7)


def images() -> Inputs:
    return asked([*picture(1, 2), *picture(), 6, *picture(2, 1)], tiles=3 + 1 + 3)


def text() -> Inputs:
    return asked([6, 7], tiles=0)


def ragged() -> Inputs:
    return asked(picture(2, 2), [*picture(), *picture(1, 2)], [6], picture(), tiles=5 + 4 + 1)


def unmixed(model: Any) -> None:
    for layer in model.model.vision_tower.transformer.encoder.layers:
        torch.nn.init.zeros_(layer.attention.out_proj.weight)


def probes(model: Any, inputs: Inputs) -> Iterator[tuple[Inputs, int, Cell]]:
    """Disturb the view and the tiles of three images."""
    places = [(0, 0, 0, 0), (0, 1, 0, 0), (0, 1, 0, SIDE), (1, 0, 0, 0)]
    places += [(2, 0, 0, 0), (2, 1, 0, 0), (2, 1, SIDE, 0)]
    return disturbed(inputs, [((tile,), place) for tile, place in enumerate(places)])


CASES = (
    FamilyCase(
        "ovis2",
        Ovis2(),
        tiny_ovis2,
        {"image": image, "images": images, "text": text, "ragged": ragged},
        features=("get_image_features",),
        probes=probes,
        unmixed=unmixed,
        probed=("images",),
    ),
)
