"""LLaVA-NeXT-Video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from tests.adapters.family import Cell, FamilyCase, Inputs, noise, padded
from tests.adapters.llavas import (
    FLAT,
    PATCH,
    PINPOINTS,
    SIZE,
    TALL,
    TILED,
    VIDEO,
    disturbed,
    local,
    processor,
    tiled,
    tiled_probes,
    tiny,
    tokenizer,
)
from tests.adapters.patched import transformers_inputs, write
from tokenreduce_model_adapters.llava_next_video import LlavaNextVideo

FRAMES, POOLED = 4, 2  # patches are pooled two by two: 2 x 2 tokens of a frame
CLIP = [VIDEO] * (FRAMES * POOLED**2)


def tiny_next_video(**settings: Any) -> Any:
    """Return a random LLaVA-NeXT-Video."""
    return tiny("LlavaNextVideo", image_grid_pinpoints=PINPOINTS, **settings)


def videos(count: int) -> Inputs:
    return {"pixel_values_videos": noise(count, FRAMES, 3, SIZE, SIZE, seed=2)}


def video() -> Inputs:
    return {**padded([[1, 2, *CLIP, 3, 4, 5]]), **videos(1)}


def both() -> Inputs:
    return {**tiled([[1, *CLIP, 2, *TALL, 3, 4]], "tall"), **videos(1)}


def ragged() -> Inputs:
    two = [1, *CLIP, 7, *CLIP, 2, 3, 4, 5]
    rows = [[1, 2, *FLAT, 3], two, [8, *CLIP, 9, 10], [1, 2, 3, 4]]
    return {**tiled(rows, "flat"), **videos(3)}


def probes(model: Any, inputs: Inputs) -> Iterator[tuple[Inputs, int, Cell]]:
    """Disturb the four patches of each cell of each frame; or those of an image."""
    if "pixel_values_videos" not in inputs:
        yield from tiled_probes(model, inputs)
        return
    for frame in range(FRAMES):
        for row in range(POOLED):
            for column in range(POOLED):
                name, side = "pixel_values_videos", 2 * PATCH
                other = disturbed(inputs, name, (0, frame), row, column, side)
                yield other, 0, (0, frame, row, column)


def write_checkpoint(directory: Path) -> None:
    kinds = ("LlavaNextImageProcessor", "LlavaNextVideoVideoProcessor")
    settings = processor("LlavaNextVideo", *kinds)
    settings["image_processor"]["image_grid_pinpoints"] = PINPOINTS
    write(directory, tiny_next_video(), tokenizer(), settings)


def hf_inputs(
    directory: Path, frames: Tensor, question: str, times: Sequence[float]
) -> dict[str, Any]:
    return transformers_inputs(directory, frames, question, times)


CASES = (
    FamilyCase(
        "llava_next_video",
        LlavaNextVideo(),
        tiny_next_video,
        {**TILED, "video": video, "video+image": both, "ragged": ragged},
        features=("get_image_features", "get_video_features"),
        probes=probes,
        unmixed=partial(local, towers=("vision_tower",)),
        probed=("image", "video"),
    ),
)
