"""Qwen3-VL: timestamps between groups of frames, and features added within the first layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenreduce.adapter import Checkpoint, Inputs, ModelAdapter
from tokenreduce.chat import ChatProcessor
from tokenreduce.features import encoded_video
from tokenreduce.layout import Layout
from tokenreduce.patches import HALF, PatchPreprocessor, by_frame, merged_grids, place_merged
from tokenreduce.pretrained import load_pretrained, load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor, nn


CELL = 32 * 32  # pixels of a token
DEFAULT = PatchPreprocessor(
    least=128 * CELL, most=768 * CELL, budget="clip", patch=16, mean=HALF, std=HALF
)
FRAME_TOKENS = 768  # for the cap that a checkpoint may switch on


class Qwen3VL(ModelAdapter):
    """Adapter for ``Qwen3VLForConditionalGeneration`` and ``Qwen3VLMoeForConditionalGeneration``.

    An image of h x w patches is one run of h / 2 x w / 2 tokens, row by row. A video is one such
    run per group of two frames, with text in front of it (``<0.2 seconds><|vision_start|>``) and
    behind it (``<|vision_end|>``): a layout frame is a group. Features of the vision tower are
    added after the first layers as well (deepstack, three by default), so nothing may be reduced
    before. Positions are the model's own.
    """

    name: ClassVar[str] = "qwen3_vl"
    model_types: ClassVar[tuple[str, ...]] = ("qwen3_vl", "qwen3_vl_moe")

    def first_layer(self, model: nn.Module) -> int:
        """See :meth:`tokenreduce.adapter.ModelAdapter.first_layer`."""
        config: Any = model.config
        return len(config.vision_config.deepstack_visual_indexes) - 1

    def layout(self, model: nn.Module, inputs: Inputs) -> Layout:
        """See :meth:`tokenreduce.adapter.ModelAdapter.layout`."""
        return place_merged(model.config, inputs, by_frame)

    def encode_video(self, model: nn.Module, inputs: Inputs) -> dict[str, Any]:
        """See :meth:`tokenreduce.adapter.ModelAdapter.encode_video`."""
        return encoded_video(model, inputs, "video_grid_thw")

    def load(self, directory: Path, *, dtype: str, device: str) -> Checkpoint:
        """See :meth:`tokenreduce.adapter.ModelAdapter.load`."""
        model = load_pretrained(
            "AutoModelForImageTextToText", directory, dtype=dtype, device=device
        )
        preprocess = PatchPreprocessor.from_directory(directory, DEFAULT, cap=FRAME_TOKENS)
        processor = Qwen3VLProcessor(load_tokenizer(directory), preprocess, model.config)
        return Checkpoint(model, processor, directory.name)


class Qwen3VLProcessor(ChatProcessor):
    """For each group of frames its mean time, and one placeholder per cell."""

    frames = 768
    sampling = "fps:2"

    def __init__(self, tokenizer: Any, preprocess: PatchPreprocessor, config: Any) -> None:
        token = config.video_token_id
        super().__init__(tokenizer, tokenizer.convert_ids_to_tokens(token), typed=token)
        self.preprocess = preprocess
        self.begin = tokenizer.convert_ids_to_tokens(config.vision_start_token_id)
        self.end = tokenizer.convert_ids_to_tokens(config.vision_end_token_id)

    def video(self, frames: Tensor, times: Sequence[float]) -> tuple[str, dict[str, Tensor]]:
        """See :meth:`tokenreduce.chat.ChatProcessor.video`."""
        pixels, size = self.preprocess(frames)
        (grid,) = merged_grids(size, self.preprocess.merge)
        tokens = self.begin + self.placeholder * (grid.rows * grid.columns) + self.end
        step = self.preprocess.temporal
        groups = (times[start : start + step] for start in range(0, len(times), step))
        # The mean of a group's first and last time; a last frame alone is its own group.
        written = (f"<{(group[0] + group[-1]) / 2:.1f} seconds>{tokens}" for group in groups)
        return "".join(written), {"pixel_values_videos": pixels, "video_grid_thw": size}
