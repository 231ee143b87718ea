"""VILA1.5, with both of its towers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.adapters.family import Cell, FamilyCase, Inputs, noise, padded, ready
from tests.adapters.published_vila import EIGHT, FORTY, publish
from tokenreduce_model_adapters.vila import Vila

VIDEO = 128  # one more than the language model has rows
FRAMES = 3
PATCH = 8
TEXT = {
    "model_type": "llama",
    "vocab_size": VIDEO,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": PATCH,
}
TOWERS = {
    # 5 x 5 patches make 3 x 3 tokens, of which the last row and column are half empty.
    "siglip": {"model_type": "siglip_vision_model", "image_size": 40, "vision_use_head": False},
    "internvit": {
        "model_type": "internvl_vision",
        "image_size": 32,
        "norm_type": "rms_norm",
        "use_qk_norm": True,
    },
}
SIDES = {"siglip": 3, "internvit": 2}


def tiny(tower: str) -> Any:
    from tokenreduce.composed import ComposedConfig, ComposedModel

    torch.manual_seed(0)
    model = ComposedModel(
        ComposedConfig(
            family="vila",
            text_config=TEXT,
            vision_config={**VISION, **TOWERS[tower]},
            video_token_id=VIDEO,
            vision_layer=-2 if tower == "siglip" else -1,
            vision_class_token=tower == "internvit",
            connector="patch_stack",
        )
    )
    for linear in (model.connector.linear_1, model.connector.linear_2):
        torch.nn.init.normal_(linear.weight, std=0.3)
    return ready(model)


def video_ids(tower: str) -> list[int]:
    """Return the frames of one video, with a line break (3) after each."""
    return [*[VIDEO] * SIDES[tower] ** 2, 3] * FRAMES


def video(tower: str, rows: list[list[int]] | None = None, videos: int = 1) -> Inputs:
    size: Any = TOWERS[tower]["image_size"]
    rows = rows or [[1, 2, *video_ids(tower), 4, 5, 6]]
    return {**padded(rows), "pixel_values_videos": noise(videos, FRAMES, 3, size, size)}


def text() -> Inputs:
    return padded([[1, 2, 3, 4, 5, 6]])


def ragged(tower: str) -> Inputs:
    one = video_ids(tower)
    return video(tower, [[1, 2, *one, 4, 5], [1, *one, 7, *one, 2, 4, 5, 6], [1, 2, 3, 4]], 3)


def unmixed(model: Any) -> None:
    for name, value in model.vision_tower.named_parameters():
        if name.endswith(("out_proj.weight", "projection_layer.weight")):
            torch.nn.init.zeros_(value)


def probes(model: Any, inputs: Inputs) -> Iterator[tuple[Inputs, int, Cell]]:
    """Disturb the 2 x 2 patches of each cell of each frame, fewer at the border."""
    frames, rows, columns = model.video_grid(FRAMES)
    for frame in range(frames):
        for row in range(rows):
            for column in range(columns):
                pixels = inputs["pixel_values_videos"].clone()
                top, left = 2 * PATCH * row, 2 * PATCH * column
                pixels[0, frame, :, top : top + 2 * PATCH, left : left + 2 * PATCH] += 5
                yield {**inputs, "pixel_values_videos": pixels}, 0, (0, frame, row, column)


def save(tower: str, model: Any, folder: Path) -> None:
    """Write another model of the kind, as it was published."""
    publish(folder, EIGHT if tower == "siglip" else FORTY)


CASES = tuple(
    FamilyCase(
        f"vila_{tower}",
        Vila(),
        partial(tiny, tower),
        {"video": partial(video, tower), "text": text, "ragged": partial(ragged, tower)},
        features=("get_video_features",),
        probes=probes,
        unmixed=unmixed,
        probed=("video",),
        save=partial(save, tower),
    )
    for tower in TOWERS
)
