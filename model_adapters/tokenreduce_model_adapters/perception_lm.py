"""PerceptionLM: frames of a video in one run; an image is a view of all of it, then its tiles."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenreduce.adapter import Checkpoint, Inputs, ModelAdapter
from tokenreduce.chat import ChatProcessor
from tokenreduce.errors import AdapterError
from tokenreduce.features import encoded_images, has_images, video_frames
from tokenreduce.layout import Layout
from tokenreduce.placement import Grid, place
from tokenreduce.preprocess import FramePreprocessor
from tokenreduce.pretrained import load_pretrained, load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor, nn


class PerceptionLM(ModelAdapter):
    """Adapter for ``PerceptionLMForConditionalGeneration``.

    A video of T frames is T grids of g x g tokens, row by row (g = patches per side of the tower /
    pooling ratio, 16). An image is a view of all of it, then its tiles, of g x g tokens each. Which
    tiles lie beside which is not in the inputs: each of them is an item of its own.
    """

    name: ClassVar[str] = "perception_lm"
    model_types: ClassVar[tuple[str, ...]] = ("perception_lm",)

    def layout(self, model: nn.Module, inputs: Inputs) -> Layout:
        """See :meth:`tokenreduce.adapter.ModelAdapter.layout`."""
        config: Any = model.config
        side = _side(config)
        frames = video_frames(inputs, side**2)
        items = {
            config.image_token_id: repeat((Grid(1, side, side),)) if has_images(inputs) else (),
            config.video_token_id: () if frames is None else repeat((Grid(frames, side, side),)),
        }
        return place(inputs["input_ids"], items, inputs.get("attention_mask"))

    def encode_video(self, model: nn.Module, inputs: Inputs) -> dict[str, Any]:
        """See :meth:`tokenreduce.adapter.ModelAdapter.encode_video`.

        The model returns one row per frame; here a video is one, so that its frames are known.
        """
        pixels = inputs.get("pixel_values_videos")
        if pixels is None or inputs.get("pixel_values") is not None:
            return dict(inputs)
        encoded = encoded_images(model, inputs, pixels="pixel_values_videos", kind="video")
        features = encoded["mm_encoder_outputs"]["video"]
        rows = features.pooler_output
        features.pooler_output = rows.reshape(len(pixels), -1, rows.shape[-1])
        return encoded

    def load(self, directory: Path, *, dtype: str, device: str) -> Checkpoint:
        """See :meth:`tokenreduce.adapter.ModelAdapter.load`.

        Published checkpoints have a tower of timm, which must be installed.
        """
        model = load_pretrained(
            "PerceptionLMForConditionalGeneration", directory, dtype=dtype, device=device
        )
        preprocess = FramePreprocessor.from_directory(directory)
        processor = PerceptionLMProcessor(load_tokenizer(directory), preprocess, model.config)
        return Checkpoint(model, processor, directory.name)


class PerceptionLMProcessor(ChatProcessor):
    """One placeholder for each cell of each frame."""

    frames = 32

    def __init__(self, tokenizer: Any, preprocess: FramePreprocessor, config: Any) -> None:
        super().__init__(tokenizer, tokenizer.convert_ids_to_tokens(config.video_token_id))
        self.preprocess, self.side = preprocess, _side(config)

    def video(self, frames: Tensor, times: Sequence[float]) -> tuple[str, dict[str, Tensor]]:
        """See :meth:`tokenreduce.chat.ChatProcessor.video`."""
        count = len(frames) * self.side**2
        return self.placeholder * count, {"pixel_values_videos": self.preprocess(frames)[None]}


def _side(config: Any) -> int:
    """Return the tokens per side of a frame or tile.

    Raises
    ------
    AdapterError
        If the configuration does not say it.
    """
    shape = (config.vision_config.model_args or {}).get("ref_feat_shape")
    if not shape:
        raise AdapterError(
            "vision_config.model_args has no ref_feat_shape, the patches per row and column of the "
            "tower: add it to the model's configuration, such as [32, 32]."
        )
    return int(shape[0]) // int(config.projector_pooling_ratio)
