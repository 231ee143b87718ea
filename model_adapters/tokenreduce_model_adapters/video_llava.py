"""Video-LLaVA: each frame of a video is a class token and its grid; an image is a grid alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenreduce.adapter import Checkpoint, Inputs, ModelAdapter
from tokenreduce.anyres import base_view
from tokenreduce.chat import ChatProcessor
from tokenreduce.errors import AdapterError
from tokenreduce.features import encoded_video, features_of, has_images, video_frames
from tokenreduce.layout import Layout, Role
from tokenreduce.placement import Item, place
from tokenreduce.preprocess import FramePreprocessor
from tokenreduce.pretrained import load_pretrained, load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor, nn


class VideoLlava(ModelAdapter):
    """Adapter for ``VideoLlavaForConditionalGeneration``.

    A video of T frames is T times the tower's class token and g x g tokens, row by row (g = image
    size / patch size, 16): 1 + 256 tokens a frame, all with the video's token id. An image is its
    g x g tokens; the class token before them is dropped unless the strategy of feature selection
    is ``full``. Class tokens have no cell.
    """

    name: ClassVar[str] = "video_llava"
    model_types: ClassVar[tuple[str, ...]] = ("video_llava",)

    def layout(self, model: nn.Module, inputs: Inputs) -> Layout:
        """See :meth:`tokenreduce.adapter.ModelAdapter.layout`."""
        config: Any = model.config
        full = config.vision_feature_select_strategy == "full"
        image = (Role.CLS, base_view(config)) if full else (base_view(config),)
        frames = _frames(config, inputs)
        items = {
            config.image_token_id: repeat(image) if _images(inputs) else (),
            config.video_token_id: () if frames is None else repeat(_video(config, frames)),
        }
        return place(inputs["input_ids"], items, inputs.get("attention_mask"))

    def encode_video(self, model: nn.Module, inputs: Inputs) -> dict[str, Any]:
        """See :meth:`tokenreduce.adapter.ModelAdapter.encode_video`.

        The model returns one row per frame; here a video is one, so that its frames are known.
        """
        pixels = inputs.get("pixel_values_videos")
        if pixels is None or _images(inputs):
            return dict(inputs)
        encoded = encoded_video(model, inputs)
        features = encoded["mm_encoder_outputs"]["video"]
        rows = features.pooler_output
        features.pooler_output = rows.reshape(len(pixels), -1, rows.shape[-1])
        return encoded

    def load(self, directory: Path, *, dtype: str, device: str) -> Checkpoint:
        """See :meth:`tokenreduce.adapter.ModelAdapter.load`."""
        model = load_pretrained(
            "VideoLlavaForConditionalGeneration", directory, dtype=dtype, device=device
        )
        preprocess = FramePreprocessor.from_directory(directory)
        processor = VideoLlavaProcessor(load_tokenizer(directory), preprocess, model.config)
        return Checkpoint(model, processor, directory.name)


class VideoLlavaProcessor(ChatProcessor):
    """One placeholder for each class token and each cell; 8 frames, as in the model's training."""

    frames = 8
    sampling = "linspace"

    def __init__(self, tokenizer: Any, preprocess: FramePreprocessor, config: Any) -> None:
        super().__init__(tokenizer, tokenizer.convert_ids_to_tokens(config.video_token_id))
        self.preprocess, self.frame_tokens = preprocess, _frame_tokens(config)

    def video(self, frames: Tensor, times: Sequence[float]) -> tuple[str, dict[str, Tensor]]:
        """See :meth:`tokenreduce.chat.ChatProcessor.video`."""
        count = len(frames) * self.frame_tokens
        return self.placeholder * count, {"pixel_values_videos": self.preprocess(frames)[None]}


def _frame_tokens(config: Any) -> int:
    side: int = base_view(config).rows
    return 1 + side**2


def _video(config: Any, frames: int) -> Item:
    parts = ((Role.CLS, base_view(config, frame)) for frame in range(frames))
    return tuple(chain.from_iterable(parts))


def _frames(config: Any, inputs: Inputs) -> int | None:
    frames, features = video_frames(inputs, _frame_tokens(config)), features_of(inputs, "video")
    if frames == 1 and inputs.get("pixel_values_videos") is None and len(features) > 1:
        raise AdapterError(
            f"the features of {len(features)} frames do not say which frames are one video: pass "
            "pixel_values_videos, or what this adapter's encode_video() makes of them."
        )
    return frames


def _images(inputs: Inputs) -> bool:
    """Return whether there are images; the family's own processor names them differently."""
    return has_images(inputs) or inputs.get("pixel_values_images") is not None
