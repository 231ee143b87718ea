"""Tiny composed models with a CLIP tower, and prompts whose videos are one run of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from tests.adapters.family import Cell, Inputs, noise, padded, ready

VIDEO = 121
PATCH = 8
SIDE = 4  # patches; 2 x 2 of them are one token
TEXT = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "image_size": SIDE * PATCH,
    "patch_size": PATCH,
}


def tiny(family: str, text: dict[str, Any], connector: str, **settings: Any) -> Any:
    """Return a random model."""
    from tokenreduce.composed import ComposedConfig, ComposedModel

    torch.manual_seed(0)
    config = ComposedConfig(
        family=family,
        text_config={**TEXT, **text},
        vision_config=VISION,
        video_token_id=VIDEO,
        connector=connector,
        **settings,
    )
    model = ComposedModel(config)
    for linear in (model.connector.linear_1, model.connector.linear_2):
        torch.nn.init.normal_(linear.weight, std=0.3)
    return ready(model)


@dataclass(frozen=True, slots=True)
class Clips:
    """Prompts about videos of ``frames`` frames of 2 x 2 tokens."""

    frames: int

    @property
    def ids(self) -> list[int]:
        return [VIDEO] * (self.frames * 4)

    def video(self, rows: list[list[int]] | None = None, videos: int = 1) -> Inputs:
        size = SIDE * PATCH
        rows = rows or [[1, 2, *self.ids, 3, 4, 5]]
        return {**padded(rows), "pixel_values_videos": noise(videos, self.frames, 3, size, size)}

    def text(self) -> Inputs:
        return padded([[1, 2, 3, 4, 5, 6]])

    def ragged(self) -> Inputs:
        two = [1, *self.ids, 7, *self.ids, 2, 3, 4, 5]
        touching = [*self.ids, *self.ids, 8, 9]
        return self.video([[1, 2, *self.ids, 3], two, touching, [1, 2, 3, 4]], 5)


def unmixed(model: Any) -> None:
    for layer in model.vision_tower.encoder.layers:
        torch.nn.init.zeros_(layer.self_attn.out_proj.weight)


def probes(model: Any, inputs: Inputs) -> Iterator[tuple[Inputs, int, Cell]]:
    """Disturb the 2 x 2 patches of each cell of each frame."""
    for frame in range(inputs["pixel_values_videos"].shape[1]):
        for row in range(2):
            for column in range(2):
                pixels = inputs["pixel_values_videos"].clone()
                top, left = 2 * PATCH * row, 2 * PATCH * column
                pixels[0, frame, :, top : top + 2 * PATCH, left : left + 2 * PATCH] += 5
                yield {**inputs, "pixel_values_videos": pixels}, 0, (0, frame, row, column)
