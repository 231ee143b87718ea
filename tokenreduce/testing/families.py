"""The tiny model families that reducers are checked on, and prompts for them.

They differ in what a reducer may rely on by mistake: decoder class, grouped or one key head per
query head, tokens per frame, images beside videos, and how prompts begin and end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tokenreduce.testing.tiny import IMAGE, PATCH, VIDEO, padded, tiny_onevision

Inputs = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One row of a batch: its token ids, and the pictures they stand for, in order."""

    ids: list[int]
    videos: tuple[Tensor, ...] = ()
    images: tuple[Tensor, ...] = ()


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of tiny model.

    Attributes
    ----------
    name
        For messages.
    model
        Makes one: ``model(layers)``.
    image_size
        Pixels per side of its pictures.
    ragged
        Prompts of different length, with different numbers of videos, one row without a video.
    """

    name: str
    model: Callable[[int], Any]
    image_size: int
    ragged: Callable[[Family], list[Prompt]]

    @property
    def frame_tokens(self) -> int:
        """Tokens of one video frame."""
        return (-(-self.image_size // PATCH // 2)) ** 2

    def video(self, frames: int, seed: int, still: int = 0) -> Tensor:
        """Return ``[frames, 3, size, size]`` noise, the last ``still`` frames like the first."""
        generator = torch.Generator().manual_seed(seed)
        clip = torch.randn(frames, 3, self.image_size, self.image_size, generator=generator)
        if still:
            clip[-still:] = clip[0]
        return clip

    def video_ids(self, frames: int) -> list[int]:
        """Return the placeholders of one video: its grid and one newline."""
        return [VIDEO] * (frames * self.frame_tokens + 1)

    def image_ids(self) -> list[int]:
        """Return the placeholders of one square image: base view, then rows with newlines."""
        side = self.image_size // PATCH
        return [IMAGE] * (side * side + side * (side + 1))

    def single(self, still: int = 0) -> Prompt:
        """Return one prompt about one video of six frames."""
        ids = [1, 2, 3, *self.video_ids(6), 5, 6, 7, 8, 9]
        return Prompt(ids, (self.video(6, 1, still),))

    def prompts(self) -> list[Prompt]:
        """Return the ragged batch of the family, row by row."""
        return self.ragged(self)


def collate(prompts: Sequence[Prompt], extra: int = 0) -> Inputs:
    """Return model inputs for prompts, padded on the left, by ``extra`` more than needed."""
    inputs = padded([prompt.ids for prompt in prompts], extra)
    videos = [video for prompt in prompts for video in prompt.videos]
    images = [image for prompt in prompts for image in prompt.images]
    if videos:
        inputs["pixel_values_videos"] = torch.stack(videos)
    if images:
        inputs["pixel_values"] = torch.stack(images)
        inputs["image_sizes"] = torch.tensor([image.shape[-2:] for image in images])
    return inputs


def _videos(family: Family) -> list[Prompt]:
    """Return one video; two videos; text alone."""
    one, two, three = (family.video(4, seed) for seed in (2, 3, 4))
    ids = family.video_ids(4)
    return [
        Prompt([1, 2, 3, *ids, 5, 6, 7], (one,)),
        Prompt([4, *ids, 11, 12, *ids, 13, 14, 15, 16], (two, three)),
        Prompt([21, 22, 23, 24]),
    ]


def _images_and_videos(family: Family) -> list[Prompt]:
    """Return an image and a video; two videos that touch; an image at the end of its prompt."""
    one, two, three = (family.video(3, seed) for seed in (5, 6, 7))
    # Base view and one tile of the high-resolution view.
    first, second = (family.video(2, seed) for seed in (8, 9))
    ids, image = family.video_ids(3), family.image_ids()
    return [
        Prompt([1, *image, 2, *ids, 5, 6], (one,), (first,)),
        Prompt([*ids, *ids, 11, 12, 13, 14], (two, three)),
        Prompt([21, 22, *image], (), (second,)),
    ]


FAMILIES = (
    Family("qwen2", partial(tiny_onevision), 32, _videos),
    Family(
        "llama", partial(tiny_onevision, backbone="llama", key_heads=4, image_size=48, seed=1), 48,
        _images_and_videos,
    ),
)  # fmt: skip
"""Grouped-query Qwen2 with videos only; multi-head Llama with 3 x 3 frames, images and videos."""
