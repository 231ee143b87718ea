"""VideoLLaMA3: every frame has its own timestamp, and its own pruning is left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenreduce.adapter import Checkpoint, Inputs, ModelAdapter
from tokenreduce.chat import ChatProcessor
from tokenreduce.errors import AdapterError
from tokenreduce.features import encoded_video
from tokenreduce.layout import Layout
from tokenreduce.patches import HALF, PatchPreprocessor, by_frame, merged_grids
from tokenreduce.placement import Item, place
from tokenreduce.pretrained import load_pretrained, load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor, nn

CELL = 28 * 28  # pixels of a token
DEFAULT = PatchPreprocessor(
    least=128 * CELL, most=768 * CELL, budget="share", temporal=1, mean=HALF, std=HALF
)


class VideoLlama3(ModelAdapter):
    """Adapter for ``VideoLlama3ForConditionalGeneration``.

    An image of h x w patches is one run of h / m x w / m tokens, row by row (m is its merge size).
    A video is one such run per frame, with text in front of it (``Time 0.5s:``, a comma before the
    second and later ones). The family's own pruning of similar frames would leave no whole grids:
    its processor must be told ``use_token_compression=False``.
    """

    name: ClassVar[str] = "video_llama_3"
    model_types: ClassVar[tuple[str, ...]] = ("video_llama_3",)

    def layout(self, model: nn.Module, inputs: Inputs) -> Layout:
        """See :meth:`tokenreduce.adapter.ModelAdapter.layout`."""
        kept = inputs.get("video_compression_mask")
        if kept is not None and not bool(kept.all()):
            raise AdapterError(
                f"VideoLLaMA3's own pruning has kept {int(kept.sum())} of {kept.numel()} video "
                "tokens, which leaves no grid to reduce on: call its processor with "
                "use_token_compression=False."
            )
        config: Any = model.config
        items = {
            config.image_token_id: _items(inputs, "image"),
            config.video_token_id: _items(inputs, "video"),
        }
        return place(inputs["input_ids"], items, inputs.get("attention_mask"))

    def encode_video(self, model: nn.Module, inputs: Inputs) -> dict[str, Any]:
        """See :meth:`tokenreduce.adapter.ModelAdapter.encode_video`."""
        return encoded_video(model, inputs, "video_grid_thw", "video_merge_sizes")

    def load(self, directory: Path, *, dtype: str, device: str) -> Checkpoint:
        """See :meth:`tokenreduce.adapter.ModelAdapter.load`."""
        model = load_pretrained(
            "VideoLlama3ForConditionalGeneration", directory, dtype=dtype, device=device
        )
        preprocess = PatchPreprocessor.from_directory(directory, DEFAULT)
        processor = VideoLlama3Processor(
            load_tokenizer(directory), preprocess, model.config.video_token_id
        )
        return Checkpoint(model, processor, directory.name)


class VideoLlama3Processor(ChatProcessor):
    """For each frame its time, and one placeholder per cell; nothing is pruned."""

    frames = 180
    sampling = "fps:1"

    def __init__(self, tokenizer: Any, preprocess: PatchPreprocessor, token: int) -> None:
        super().__init__(tokenizer, tokenizer.convert_ids_to_tokens(token))
        self.preprocess = preprocess

    def video(self, frames: Tensor, times: Sequence[float]) -> tuple[str, dict[str, Tensor]]:
        """See :meth:`tokenreduce.chat.ChatProcessor.video`."""
        import torch

        merge = self.preprocess.merge
        pixels, size = self.preprocess(frames)
        (grid,) = merged_grids(size, merge)
        cells = grid.rows * grid.columns
        written = ",".join(f"Time {time:.1f}s:" + self.placeholder * cells for time in times)
        return written, {
            "pixel_values_videos": pixels,
            "video_grid_thw": size,
            "video_merge_sizes": torch.tensor([merge]),
            "video_compression_mask": torch.ones(grid.frames * cells, dtype=torch.bool),
        }


def _items(inputs: Inputs, kind: str) -> Iterator[Item]:
    """Yield the images or videos of a batch, frame by frame; each has its own merge size."""
    sizes, merges = inputs.get(f"{kind}_grid_thw"), inputs.get(f"{kind}_merge_sizes")
    if sizes is None or merges is None:
        return
    for size, merge in zip(sizes, merges.tolist(), strict=True):
        for grid in merged_grids(size[None], merge):
            yield by_frame(grid)
