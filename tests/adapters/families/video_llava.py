"""Video-LLaVA."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from tests.adapters.family import Cell, FamilyCase, Inputs, noise, padded
from tests.adapters.llavas import (
    BASE,
    ONE,
    SIDE,
    SIZE,
    SQUARES,
    VIDEO,
    disturbed,
    local,
    processor,
    square_probes,
    squares,
    tiny,
    tokenizer,
)
from tests.adapters.patched import transformers_inputs, write
from tokenreduce_model_adapters.video_llava import VideoLlava

FRAMES = 3
CLIP = [VIDEO] * (FRAMES * (1 + BASE))  # a class token before each frame


def tiny_video_llava(**settings: Any) -> Any:
    """Return a random Video-LLaVA."""
    return tiny("VideoLlava", **settings)


def videos(count: int) -> Inputs:
    return {"pixel_values_videos": noise(count, FRAMES, 3, SIZE, SIZE, seed=2)}


def video() -> Inputs:
    return {**padded([[1, 2, *CLIP, 3, 4, 5]]), **videos(1)}


def both() -> Inputs:
    return {**squares([[1, *CLIP, 2, *ONE, 3, 4]], 1), **videos(1)}


def ragged() -> Inputs:
    two = [1, *CLIP, 7, *CLIP, 2, 3, 4, 5]
    rows = [[1, 2, *ONE, 3], two, [8, *CLIP, 9, 10], [1, 2, 3, 4]]
    return {**squares(rows, 1), **videos(3)}


def probes(model: Any, inputs: Inputs) -> Iterator[tuple[Inputs, int, Cell]]:
    """Disturb one patch after another of each frame, or of each image."""
    if "pixel_values_videos" not in inputs:
        yield from square_probes(model, inputs)
        return
    for frame in range(FRAMES):
        for row in range(SIDE):
            for column in range(SIDE):
                other = disturbed(inputs, "pixel_values_videos", (0, frame), row, column)
                yield other, 0, (0, frame, row, column)


def write_checkpoint(directory: Path) -> None:
    kinds = ("VideoLlavaImageProcessor", "VideoLlavaVideoProcessor")
    settings = processor("VideoLlava", *kinds)
    write(directory, tiny_video_llava(), tokenizer(), settings)


def hf_inputs(
    directory: Path, frames: Tensor, question: str, times: Sequence[float]
) -> dict[str, Any]:
    return transformers_inputs(directory, frames, question, times)


CASES = (
    FamilyCase(
        "video_llava",
        VideoLlava(),
        tiny_video_llava,
        {**SQUARES, "video": video, "video+image": both, "ragged": ragged},
        features=("get_image_features", "get_video_features"),
        probes=probes,
        unmixed=partial(local, towers=("image_tower", "video_tower")),
        probed=("images", "video"),
    ),
)
