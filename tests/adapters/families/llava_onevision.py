"""LLaVA-OneVision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.adapters.family import Cell, FamilyCase, Inputs, noise, padded
from tests.adapters.llavas import PINPOINTS, SIZE, processor, tokenizer
from tests.adapters.patched import transformers_inputs, write
from tokenreduce.testing.tiny import IMAGE, PATCH, tiny_onevision, video_ids
from tokenreduce_model_adapters.llava_onevision import LlavaOnevision

ONE = [IMAGE] * (16 + 4 * 5)  # a square image: base view, then rows with a newline each
SEVERAL = [IMAGE] * (16 + 1)  # an image among several: base view and one newline
FRAMES = 4


def image() -> Inputs:
    return {
        **padded([[1, 2, *ONE, 3, 4]]),
        "pixel_values": noise(1, 2, 3, 32, 32),
        "image_sizes": torch.tensor([[32, 32]]),
    }


def images() -> Inputs:
    return {
        **padded([[1, *SEVERAL, 2, *SEVERAL, 3, 4]]),
        "pixel_values": noise(2, 1, 3, 32, 32),
        "image_sizes": torch.tensor([[32, 32], [32, 32]]),
        "batch_num_images": torch.tensor([2]),
    }


def video(rows: list[list[int]] | None = None, videos: int = 1) -> Inputs:
    rows = rows or [[1, 2, *video_ids(FRAMES), 3, 4, 5]]
    return {**padded(rows), "pixel_values_videos": noise(videos, FRAMES, 3, 32, 32, seed=2)}


def both() -> Inputs:
    rows = [[1, *video_ids(FRAMES), 2, *ONE, 3, 4]]
    return {**image(), **video(rows)}


def text() -> Inputs:
    return padded([[1, 2, 3, 4, 5, 6]])


def ragged() -> Inputs:
    two = [1, *video_ids(FRAMES), 7, *video_ids(FRAMES), 2, 3, 4, 5]
    rows = [[1, 2, *ONE, 3], two, [8, *video_ids(FRAMES), 9, 10], [1, 2, 3, 4]]
    return {**image(), **video(rows, 3)}


def unmixed(model: Any) -> None:
    for layer in model.model.vision_tower.encoder.layers:
        torch.nn.init.zeros_(layer.self_attn.out_proj.weight)


def probes(model: Any, inputs: Inputs) -> Iterator[tuple[Inputs, int, Cell]]:
    """Disturb the patches in the middle of a cell of each frame; the cells are 2 x 2 patches."""
    for frame in range(FRAMES):
        for row in range(2):
            for column in range(2):
                pixels = inputs["pixel_values_videos"].clone()
                top, left = 2 * PATCH * row, 2 * PATCH * column
                pixels[0, frame, :, top : top + 2 * PATCH, left : left + 2 * PATCH] += 5
                yield {**inputs, "pixel_values_videos": pixels}, 0, (0, frame, row, column)


def write_checkpoint(directory: Path) -> None:
    kinds = ("LlavaOnevisionImageProcessor", "LlavaOnevisionVideoProcessor")
    settings = processor("LlavaOnevision", *kinds, num_image_tokens=16)
    settings["vision_feature_select_strategy"] = "full"
    for kind in ("image_processor", "video_processor"):
        settings[kind] |= {"size": {"height": SIZE, "width": SIZE}, "do_center_crop": None}
        settings[kind]["crop_size"] = None
    settings["image_processor"]["image_grid_pinpoints"] = PINPOINTS
    write(directory, tiny_onevision(6), tokenizer(), settings)


def hf_inputs(
    directory: Path, frames: Tensor, question: str, times: Sequence[float]
) -> dict[str, Any]:
    return transformers_inputs(directory, frames, question, times)


CASES = (
    FamilyCase(
        "llava_onevision",
        LlavaOnevision(),
        partial(tiny_onevision, 6),
        {
            "image": image,
            "images": images,
            "video": video,
            "video+image": both,
            "text": text,
            "ragged": ragged,
        },
        features=("get_image_features", "get_video_features"),
        probes=probes,
        unmixed=unmixed,
        probed=("video",),
    ),
)
