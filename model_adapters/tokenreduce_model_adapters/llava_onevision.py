"""LLaVA-OneVision: one contiguous run per video, one learned newline token at its end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenreduce.adapter import Checkpoint, Inputs, ModelAdapter
from tokenreduce.anyres import base_view, tiled_views
from tokenreduce.chat import ChatProcessor
from tokenreduce.features import encoded_video, video_frames
from tokenreduce.layout import Layout, Role
from tokenreduce.placement import Grid, Item, place
from tokenreduce.preprocess import FramePreprocessor
from tokenreduce.pretrained import load_pretrained, load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor, nn


class LlavaOnevision(ModelAdapter):
    """Adapter for ``LlavaOnevisionForConditionalGeneration``.

    A video of T frames is T grids of ceil(g / 2) x ceil(g / 2) tokens, row by row, and one newline
    (g = image size / patch size). A lone image is its g x g base view, then the unpadded
    high-resolution view with a newline after each row: frames 0 and 1 of the item. An image among
    several is the base view and one newline.
    """

    name: ClassVar[str] = "llava_onevision"
    model_types: ClassVar[tuple[str, ...]] = ("llava_onevision",)

    def layout(self, model: nn.Module, inputs: Inputs) -> Layout:
        """See :meth:`tokenreduce.adapter.ModelAdapter.layout`."""
        config: Any = model.config
        items = {
            config.image_token_id: _images(config, inputs),
            config.video_token_id: _videos(config, inputs),
        }
        return place(inputs["input_ids"], items, inputs.get("attention_mask"))

    def encode_video(self, model: nn.Module, inputs: Inputs) -> dict[str, Any]:
        """See :meth:`tokenreduce.adapter.ModelAdapter.encode_video`."""
        return encoded_video(model, inputs)

    def load(self, directory: Path, *, dtype: str, device: str) -> Checkpoint:
        """See :meth:`tokenreduce.adapter.ModelAdapter.load`."""
        model = load_pretrained(
            "LlavaOnevisionForConditionalGeneration", directory, dtype=dtype, device=device
        )
        preprocess = FramePreprocessor.from_directory(directory)
        processor = LlavaOnevisionProcessor(load_tokenizer(directory), preprocess, model.config)
        return Checkpoint(model, processor, directory.name)


class LlavaOnevisionProcessor(ChatProcessor):
    """One placeholder for each cell of each frame, and one for the newline."""

    def __init__(self, tokenizer: Any, preprocess: FramePreprocessor, config: Any) -> None:
        super().__init__(tokenizer, tokenizer.convert_ids_to_tokens(config.video_token_id))
        self.preprocess, self.side = preprocess, _video_side(config)

    def video(self, frames: Tensor, times: Sequence[float]) -> tuple[str, dict[str, Tensor]]:
        """See :meth:`tokenreduce.chat.ChatProcessor.video`."""
        count = len(frames) * self.side**2 + 1
        return self.placeholder * count, {"pixel_values_videos": self.preprocess(frames)[None]}


def _video_side(config: Any) -> int:
    return math.ceil(base_view(config).rows / 2)


def _videos(config: Any, inputs: Inputs) -> Iterable[Item]:
    """Return the videos of a batch: all are one tensor, so of one length."""
    side = _video_side(config)
    frames = video_frames(inputs, side**2, beside=1)
    return () if frames is None else repeat((Grid(frames, side, side), Role.NEWLINE))


def _images(config: Any, inputs: Inputs) -> Iterator[Item]:
    """Yield the images of a batch: base view, then newline or the unpadded high-resolution view."""
    sizes = inputs.get("image_sizes")
    if sizes is None:
        return
    counts = inputs.get("batch_num_images")
    alone = [True] * len(sizes)
    if counts is not None:
        alone = [int(n) == 1 for n in counts for _ in range(int(n))]
    largest = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
    for (height, width), patched in zip(sizes.tolist(), alone, strict=True):
        if patched:
            yield tiled_views(config, height, width, largest)
        else:
            yield base_view(config), Role.NEWLINE
