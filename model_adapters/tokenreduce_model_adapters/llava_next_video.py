"""LLaVA-NeXT-Video: frames of pooled tokens in one run; images as in LLaVA-NeXT."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenreduce.adapter import Checkpoint, Inputs, ModelAdapter
from tokenreduce.anyres import base_view, tiled_images
from tokenreduce.chat import ChatProcessor
from tokenreduce.features import encoded_video, video_frames
from tokenreduce.layout import Layout
from tokenreduce.placement import Grid, place
from tokenreduce.preprocess import FramePreprocessor
from tokenreduce.pretrained import load_pretrained, load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor, nn


class LlavaNextVideo(ModelAdapter):
    """Adapter for ``LlavaNextVideoForConditionalGeneration``.

    A video of T frames is T grids of p x p tokens, row by row, with nothing between them (p =
    image size / patch size / pooling stride, 12). An image is its base view, then the
    high-resolution view with a newline after each row: frames 0 and 1 of the item.
    """

    name: ClassVar[str] = "llava_next_video"
    model_types: ClassVar[tuple[str, ...]] = ("llava_next_video",)

    def layout(self, model: nn.Module, inputs: Inputs) -> Layout:
        """See :meth:`tokenreduce.adapter.ModelAdapter.layout`."""
        config: Any = model.config
        side = _video_side(config)
        frames = video_frames(inputs, side**2)
        videos = () if frames is None else repeat((Grid(frames, side, side),))
        items = {config.image_token_id: tiled_images(config, inputs), config.video_token_id: videos}
        return place(inputs["input_ids"], items, inputs.get("attention_mask"))

    def encode_video(self, model: nn.Module, inputs: Inputs) -> dict[str, Any]:
        """See :meth:`tokenreduce.adapter.ModelAdapter.encode_video`."""
        return encoded_video(model, inputs)

    def load(self, directory: Path, *, dtype: str, device: str) -> Checkpoint:
        """See :meth:`tokenreduce.adapter.ModelAdapter.load`."""
        model = load_pretrained(
            "LlavaNextVideoForConditionalGeneration", directory, dtype=dtype, device=device
        )
        preprocess = FramePreprocessor.from_directory(directory)
        processor = LlavaNextVideoProcessor(load_tokenizer(directory), preprocess, model.config)
        return Checkpoint(model, processor, directory.name)


class LlavaNextVideoProcessor(ChatProcessor):
    """One placeholder for each cell of each frame; 32 frames, as in the model's training."""

    frames = 32
    sampling = "linspace"

    def __init__(self, tokenizer: Any, preprocess: FramePreprocessor, config: Any) -> None:
        super().__init__(tokenizer, tokenizer.convert_ids_to_tokens(config.video_token_id))
        self.preprocess, self.side = preprocess, _video_side(config)

    def video(self, frames: Tensor, times: Sequence[float]) -> tuple[str, dict[str, Tensor]]:
        """See :meth:`tokenreduce.chat.ChatProcessor.video`."""
        count = len(frames) * self.side**2
        return self.placeholder * count, {"pixel_values_videos": self.preprocess(frames)[None]}


def _video_side(config: Any) -> int:
    side: int = base_view(config).rows // config.spatial_pool_stride
    return side
