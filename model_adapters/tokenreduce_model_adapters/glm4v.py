"""GLM-4.1V and GLM-4.6V: frames of a video are images with their seconds behind them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenreduce.adapter import Checkpoint, Inputs, ModelAdapter
from tokenreduce.chat import ChatProcessor
from tokenreduce.errors import AdapterError
from tokenreduce.features import encoded_video
from tokenreduce.layout import Layout
from tokenreduce.patches import PatchPreprocessor, by_frame, merged_grids, require_types
from tokenreduce.placement import place
from tokenreduce.pretrained import load_pretrained, load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor, nn

CELL = 28 * 28  # pixels of a token
DEFAULT = PatchPreprocessor(least=112 * 112, most=2 * 30_000 * CELL, budget="clip")


class Glm4v(ModelAdapter):
    """Adapter for ``Glm4vForConditionalGeneration`` and ``Glm46VForConditionalGeneration``.

    An image of h x w patches is one run of h / 2 x w / 2 tokens, row by row. A video is one such
    run per group of two frames, each between ``<|begin_of_image|>`` and ``<|end_of_image|>`` and
    with its seconds behind it, all of which is text: a layout frame is a group. The tokens are the
    image's in both, so a forward takes images or videos. Positions are the model's own.
    """

    name: ClassVar[str] = "glm4v"
    model_types: ClassVar[tuple[str, ...]] = ("glm4v", "glm46v")

    def layout(self, model: nn.Module, inputs: Inputs) -> Layout:
        """See :meth:`tokenreduce.adapter.ModelAdapter.layout`."""
        require_types(inputs)
        config: Any = model.config
        images, videos = inputs.get("image_grid_thw"), inputs.get("video_grid_thw")
        if images is not None and videos is not None:
            raise AdapterError(
                f"{len(images)} images and {len(videos)} videos were given together: both are "
                f"written with the token id {config.image_token_id}, and the model takes one kind "
                "per forward; give the images as videos of two equal frames, or ask apart."
            )
        grids = merged_grids(
            images if videos is None else videos, config.vision_config.spatial_merge_size
        )
        items = {config.image_token_id: map(by_frame, grids)}
        return place(inputs["input_ids"], items, inputs.get("attention_mask"))

    def encode_video(self, model: nn.Module, inputs: Inputs) -> dict[str, Any]:
        """See :meth:`tokenreduce.adapter.ModelAdapter.encode_video`."""
        return encoded_video(model, inputs, "video_grid_thw")

    def load(self, directory: Path, *, dtype: str, device: str) -> Checkpoint:
        """See :meth:`tokenreduce.adapter.ModelAdapter.load`."""
        model = load_pretrained(
            "AutoModelForImageTextToText", directory, dtype=dtype, device=device
        )
        preprocess = PatchPreprocessor.from_directory(directory, DEFAULT)
        processor = Glm4vProcessor(load_tokenizer(directory), preprocess, model.config)
        return Checkpoint(model, processor, directory.name)


class Glm4vProcessor(ChatProcessor):
    """For each group of frames one image placeholder per cell, and the time of its first frame."""

    frames = 600
    sampling = "fps:2"

    def __init__(self, tokenizer: Any, preprocess: PatchPreprocessor, config: Any) -> None:
        name = tokenizer.convert_ids_to_tokens
        super().__init__(tokenizer, name(config.video_token_id), typed=config.image_token_id)
        self.preprocess = preprocess
        self.begin, self.end = name(config.image_start_token_id), name(config.image_end_token_id)
        self.cell = name(config.image_token_id)
        self.tenths = config.model_type == "glm46v"

    def video(self, frames: Tensor, times: Sequence[float]) -> tuple[str, dict[str, Tensor]]:
        """See :meth:`tokenreduce.chat.ChatProcessor.video`."""
        pixels, size = self.preprocess(frames)
        (grid,) = merged_grids(size, self.preprocess.merge)
        tokens = self.begin + self.cell * (grid.rows * grid.columns) + self.end
        starts = times[:: self.preprocess.temporal]
        written = "".join(tokens + self._written(start) for start in starts)
        return written, {"pixel_values_videos": pixels, "video_grid_thw": size}

    def _written(self, time: float) -> str:
        return f"{time:.1f} seconds" if self.tenths else str(int(time))
