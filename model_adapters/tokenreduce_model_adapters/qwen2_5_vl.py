"""Qwen2.5-VL: any picture size, two frames joined to one grid, temporal positions in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenreduce.adapter import Checkpoint, Inputs, ModelAdapter
from tokenreduce.features import encoded_video
from tokenreduce.layout import Layout
from tokenreduce.patches import PatchPreprocessor, PatchProcessor, place_merged, whole
from tokenreduce.pretrained import load_pretrained, load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor, nn

CELL = 28 * 28  # pixels of a token
DEFAULT = PatchPreprocessor(least=128 * CELL, most=768 * CELL, budget="frame")
VIDEO_TOKENS = 128_000  # for the cap that a checkpoint may switch on


class Qwen2_5_VL(ModelAdapter):  # noqa: N801 - the family's own spelling
    """Adapter for ``Qwen2_5_VLForConditionalGeneration``.

    An image of h x w patches is one run of h / 2 x w / 2 tokens, row by row. A video of T groups of
    two frames is one run of T such grids: a layout frame is a group. The tokens in front of and
    behind a run (``<|vision_start|>``, ``<|vision_end|>``) are text. Positions are the model's own;
    those in time count by ``second_per_grid_ts``, the seconds of a group.
    """

    name: ClassVar[str] = "qwen2_5_vl"
    model_types: ClassVar[tuple[str, ...]] = ("qwen2_5_vl",)

    def layout(self, model: nn.Module, inputs: Inputs) -> Layout:
        """See :meth:`tokenreduce.adapter.ModelAdapter.layout`."""
        return place_merged(model.config, inputs, whole)

    def encode_video(self, model: nn.Module, inputs: Inputs) -> dict[str, Any]:
        """See :meth:`tokenreduce.adapter.ModelAdapter.encode_video`."""
        return encoded_video(model, inputs, "video_grid_thw")

    def load(self, directory: Path, *, dtype: str, device: str) -> Checkpoint:
        """See :meth:`tokenreduce.adapter.ModelAdapter.load`."""
        model = load_pretrained(
            "Qwen2_5_VLForConditionalGeneration", directory, dtype=dtype, device=device
        )
        preprocess = PatchPreprocessor.from_directory(directory, DEFAULT, cap=VIDEO_TOKENS)
        processor = Qwen2_5_VLProcessor(
            load_tokenizer(directory), preprocess, model.config.video_token_id
        )
        return Checkpoint(model, processor, directory.name)


class Qwen2_5_VLProcessor(PatchProcessor):  # noqa: N801 - the family's own spelling
    """One placeholder for each cell of each group of frames, and the seconds of a group."""

    frames = 768
    sampling = "fps:2"

    def video(self, frames: Tensor, times: Sequence[float]) -> tuple[str, dict[str, Tensor]]:
        """See :meth:`tokenreduce.chat.ChatProcessor.video`."""
        import torch

        written, inputs = super().video(frames, times)
        # Frames may be unevenly spread: what counts is how long one lasts on average.
        rate = (len(times) - 1) / (times[-1] - times[0]) if times[-1] > times[0] else 2.0
        seconds = torch.tensor([self.preprocess.temporal / rate])
        return written, {**inputs, "second_per_grid_ts": seconds}
