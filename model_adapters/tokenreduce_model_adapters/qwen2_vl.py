"""Qwen2-VL: any picture size, two frames joined to one grid, positions in time, row and column."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenreduce.adapter import Checkpoint, Inputs, ModelAdapter
from tokenreduce.features import encoded_video
from tokenreduce.layout import Layout
from tokenreduce.patches import PatchPreprocessor, PatchProcessor, place_merged, whole
from tokenreduce.pretrained import load_pretrained, load_tokenizer

if TYPE_CHECKING:
    from torch import nn

CELL = 28 * 28  # pixels of a token
DEFAULT = PatchPreprocessor(least=128 * CELL, most=768 * CELL, budget="frame")
VIDEO_TOKENS = 128_000  # for the cap that a checkpoint may switch on


class Qwen2VL(ModelAdapter):
    """Adapter for ``Qwen2VLForConditionalGeneration``.

    An image of h x w patches is one run of h / 2 x w / 2 tokens, row by row. A video of T groups of
    two frames is one run of T such grids: a layout frame is a group. The tokens in front of and
    behind a run (``<|vision_start|>``, ``<|vision_end|>``) are text. Positions are the model's own.
    """

    name: ClassVar[str] = "qwen2_vl"
    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl",)

    def layout(self, model: nn.Module, inputs: Inputs) -> Layout:
        """See :meth:`tokenreduce.adapter.ModelAdapter.layout`."""
        return place_merged(model.config, inputs, whole)

    def encode_video(self, model: nn.Module, inputs: Inputs) -> dict[str, Any]:
        """See :meth:`tokenreduce.adapter.ModelAdapter.encode_video`."""
        return encoded_video(model, inputs, "video_grid_thw")

    def load(self, directory: Path, *, dtype: str, device: str) -> Checkpoint:
        """See :meth:`tokenreduce.adapter.ModelAdapter.load`."""
        model = load_pretrained(
            "Qwen2VLForConditionalGeneration", directory, dtype=dtype, device=device
        )
        preprocess = PatchPreprocessor.from_directory(directory, DEFAULT, cap=VIDEO_TOKENS)
        processor = Qwen2VLProcessor(
            load_tokenizer(directory), preprocess, model.config.video_token_id
        )
        return Checkpoint(model, processor, directory.name)


class Qwen2VLProcessor(PatchProcessor):
    """Two frames a second."""

    frames = 768
    sampling = "fps:2"
