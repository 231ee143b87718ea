"""Mistral 3."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from tests.adapters.family import Cell, FamilyCase, Inputs, noise, padded, ready
from tokenreduce_model_adapters.mistral3 import Mistral3

IMAGE, BREAK, END = 10, 12, 13
CELL = 8  # pixels of a token: patches of 4, merged 2 x 2
SIZES = [(16, 24), (24, 16), (24, 24)]  # heights and widths: 2 x 3, 3 x 2 and 3 x 3 tokens


def tiny_mistral3(attention: str = "sdpa", *, window: int | None = None) -> Any:
    """Return a random Mistral 3 of six layers."""
    from transformers import (
        Mistral3Config,
        Mistral3ForConditionalGeneration,
        MistralConfig,
        PixtralVisionConfig,
    )

    torch.manual_seed(0)
    vision = PixtralVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        head_dim=8,
        image_size=32,
        patch_size=CELL // 2,
    )
    text = MistralConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=window,
        initializer_range=0.3,
    )
    config = Mistral3Config(vision_config=vision, text_config=text, image_token_index=IMAGE)
    model = ready(Mistral3ForConditionalGeneration(config))
    model.set_attn_implementation(attention)
    return model


def picture(size: tuple[int, int]) -> list[int]:
    rows, columns = size[0] // CELL, size[1] // CELL
    ids = ([IMAGE] * columns + [BREAK]) * rows
    return [*ids[:-1], END]


def prompt(rows: list[list[int]], sizes: list[tuple[int, int]]) -> Inputs:
    inputs = padded(rows)
    if sizes:
        # The processor fills images up to the largest of the batch.
        inputs["pixel_values"] = noise(len(sizes), 3, 24, 24)
        inputs["image_sizes"] = torch.tensor(sizes)
    return inputs


def image() -> Inputs:
    return prompt([[1, 2, *picture(SIZES[0]), 3, 4, 5]], SIZES[:1])


def images() -> Inputs:
    pictures = [*picture(SIZES[0]), 7, *picture(SIZES[1]), *picture(SIZES[2])]
    return prompt([[1, *pictures, 3, 4, 5]], SIZES)


def text() -> Inputs:
    return prompt([[1, 2, 3, 4, 5, 6]], [])


def ragged() -> Inputs:
    two = [*picture(SIZES[1]), *picture(SIZES[2])]
    rows = [[1, 2, *picture(SIZES[0]), 3], [4, *two, 5, 6, 7, 8], [1, 2, 3, 4]]
    return prompt(rows, SIZES)


def unmixed(model: Any) -> None:
    for layer in model.model.vision_tower.transformer.layers:
        torch.nn.init.zeros_(layer.attention.o_proj.weight)


def probes(model: Any, inputs: Inputs) -> Iterator[tuple[Inputs, int, Cell]]:
    """Disturb the pixels of one cell of an image after another."""
    for item, (height, width) in enumerate(SIZES):
        for row in range(height // CELL):
            for column in range(width // CELL):
                pixels = inputs["pixel_values"].clone()
                top, left = CELL * row, CELL * column
                pixels[item, :, top : top + CELL, left : left + CELL] += 5
                yield {**inputs, "pixel_values": pixels}, 0, (item, 0, row, column)


CASES = (
    FamilyCase(
        "mistral3",
        Mistral3(),
        tiny_mistral3,
        {"image": image, "images": images, "text": text, "ragged": ragged},
        features=("get_image_features",),
        probes=probes,
        unmixed=unmixed,
        probed=("images",),
    ),
)
