"""LLaVA-OneVision: one contiguous run per video, one learned newline token at its end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenreduce.adapter import Checkpoint, Inputs, ModelAdapter
from tokenreduce.chat import ChatProcessor
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
        import torch

        rest = dict(inputs)
        # The model takes encoded features or pixels, not both: images beside videos stay pixels.
        if rest.get("pixel_values") is not None:
            return rest
        pixels = rest.pop("pixel_values_videos", None)
        if pixels is None:
            return rest
        with torch.no_grad():
            features = model.get_video_features(pixels, return_dict=True)  # type: ignore[operator]
        return {**rest, "mm_encoder_outputs": {"video": features}}

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


def _base_side(config: Any) -> int:
    side: int = config.vision_config.image_size // config.vision_config.patch_size
    return side


def _video_side(config: Any) -> int:
    return math.ceil(_base_side(config) / 2)


def _videos(config: Any, inputs: Inputs) -> Iterator[Item]:
    """Return the videos of a batch: all are one tensor, so of one length."""
    side = _video_side(config)
    encoded = (inputs.get("mm_encoder_outputs") or {}).get("video")
    pixels = inputs.get("pixel_values_videos")
    if encoded is not None:
        frames = (int(encoded.pooler_output.shape[1]) - 1) // side**2
    elif pixels is not None:
        frames = int(pixels.shape[1])
    else:
        return iter(())
    return repeat((Grid(frames, side, side), Role.NEWLINE))


def _images(config: Any, inputs: Inputs) -> Iterator[Item]:
    """Yield the images of a batch: base view, then newline or the unpadded high-resolution view."""
    sizes = inputs.get("image_sizes")
    if sizes is None:
        return
    counts = inputs.get("batch_num_images")
    alone = [True] * len(sizes)
    if counts is not None:
        alone = [int(n) == 1 for n in counts for _ in range(int(n))]
    side = _base_side(config)
    base = Grid(1, side, side)
    for (height, width), patched in zip(sizes.tolist(), alone, strict=True):
        if not patched:
            yield base, Role.NEWLINE
            continue
        rows, columns = _anyres_grid(config, height, width)
        lines = ((Grid(1, 1, columns, 1, row), Role.NEWLINE) for row in range(rows))
        yield base, *chain.from_iterable(lines)


def _anyres_grid(config: Any, height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of the unpadded high-resolution view of an image of that size."""
    from transformers.models.llava_onevision.modeling_llava_onevision import (
        get_anyres_image_grid_shape,
    )

    base = _base_side(config)
    tiles = get_anyres_image_grid_shape(
        (height, width), config.image_grid_pinpoints, config.vision_config.image_size
    )
    rows, columns = tiles[0] * base, tiles[1] * base
    if width / height > columns / rows:
        rows -= 2 * ((rows - int(round(height * columns / width, 7))) // 2)
    else:
        columns -= 2 * ((columns - int(round(width * rows / height, 7))) // 2)
    most = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
    ratio = math.sqrt(rows * columns / (most * base**2))
    return (int(rows // ratio), int(columns // ratio)) if ratio > 1.1 else (rows, columns)
