"""Gemma 3."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from tests.adapters.family import Cell, FamilyCase, Inputs, noise, padded, ready
from tokenreduce_model_adapters.gemma3 import Gemma3

IMAGE, BEGIN, END = 120, 121, 122
SIDE, CELL = 3, 8  # 3 x 3 tokens of 8 x 8 pixels, which are 2 x 2 patches
SIZE = SIDE * CELL
WINDOW = 7  # smaller than an image, so that it cuts through it


def tiny_gemma3(attention: str = "sdpa", *, window: int = WINDOW) -> Any:
    """Return a random Gemma 3 of six layers, every third of them with full attention."""
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3TextConfig,
        SiglipVisionConfig,
    )

    torch.manual_seed(0)
    vision = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=CELL // 2,
        vision_use_head=False,
    )
    text = Gemma3TextConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=window,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
        initializer_range=0.3,
    )
    config = Gemma3Config(
        vision_config=vision,
        text_config=text,
        mm_tokens_per_image=SIDE * SIDE,
        image_token_index=IMAGE,
        boi_token_index=BEGIN,
        eoi_token_index=END,
    )
    model = ready(Gemma3ForConditionalGeneration(config))
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
    model.set_attn_implementation(attention)
    return model


def picture() -> list[int]:
    return [BEGIN, *[IMAGE] * SIDE**2, END]


def prompt(rows: list[list[int]], images: int) -> Inputs:
    inputs = padded(rows)
    inputs["token_type_ids"] = (inputs["input_ids"] == IMAGE).long()
    if images:
        inputs["pixel_values"] = noise(images, 3, SIZE, SIZE)
    return inputs


def image() -> Inputs:
    return prompt([[1, 2, *picture(), 3, 4, 5]], 1)


def images() -> Inputs:
    """An image with two pan-and-scan crops, and one more image."""
    return prompt([[1, *picture(), 7, *picture(), 8, *picture(), 9, *picture(), 3, 4, 5]], 4)


def text() -> Inputs:
    return prompt([[1, 2, 3, 4, 5, 6]], 0)


def ragged() -> Inputs:
    rows = [[1, 2, *picture(), 3], [4, *picture(), *picture(), 5, 6, 7, 8], [1, 2, 3, 4]]
    return prompt(rows, 3)


def unmixed(model: Any) -> None:
    for layer in model.model.vision_tower.encoder.layers:
        torch.nn.init.zeros_(layer.self_attn.out_proj.weight)


def probes(model: Any, inputs: Inputs) -> Iterator[tuple[Inputs, int, Cell]]:
    """Disturb the pixels of one cell of an image after another."""
    for item in range(4):
        for row in range(SIDE):
            for column in range(SIDE):
                pixels = inputs["pixel_values"].clone()
                top, left = CELL * row, CELL * column
                pixels[item, :, top : top + CELL, left : left + CELL] += 5
                yield {**inputs, "pixel_values": pixels}, 0, (item, 0, row, column)


CASES = (
    FamilyCase(
        "gemma3",
        Gemma3(),
        tiny_gemma3,
        {"image": image, "images": images, "text": text, "ragged": ragged},
        features=("get_image_features",),
        probes=probes,
        unmixed=unmixed,
        probed=("images",),
    ),
)
