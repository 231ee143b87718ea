"""InternVL: tiles of images and frames of videos, all with the image's token id."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenreduce.adapter import Checkpoint, Inputs, ModelAdapter
from tokenreduce.chat import ChatProcessor
from tokenreduce.features import encoded_images, has_images
from tokenreduce.layout import Layout
from tokenreduce.placement import Grid, Item, place
from tokenreduce.preprocess import FramePreprocessor
from tokenreduce.pretrained import load_pretrained, load_tokenizer
from tokenreduce.tiles import Picture, clips, require_tiles, runs

if TYPE_CHECKING:
    from torch import Tensor, nn


class InternVL(ModelAdapter):
    """Adapter for ``InternVLForConditionalGeneration``.

    An image is ``<img>``, its tiles of g x g tokens, a view of all of it last if there are several,
    and ``</img>`` (g = 16). Which tiles lie beside which is not in the inputs: each tile is an item
    of its own. A video is ``Frame1: <img>`` g x g tokens ``</img>``, a line for each frame, and one
    item: pictures of one tile whose captions count on are frames of one video.
    """

    name: ClassVar[str] = "internvl"
    model_types: ClassVar[tuple[str, ...]] = ("internvl",)

    def layout(self, model: nn.Module, inputs: Inputs) -> Layout:
        """See :meth:`tokenreduce.adapter.ModelAdapter.layout`."""
        config: Any = model.config
        ids, token = inputs["input_ids"], config.image_token_id
        items = _items(ids, token, _side(config)) if has_images(inputs) else ()
        return place(ids, {token: items}, inputs.get("attention_mask"))

    def encode_video(self, model: nn.Module, inputs: Inputs) -> dict[str, Any]:
        """See :meth:`tokenreduce.adapter.ModelAdapter.encode_video`."""
        return encoded_images(model, inputs)

    def load(self, directory: Path, *, dtype: str, device: str) -> Checkpoint:
        """See :meth:`tokenreduce.adapter.ModelAdapter.load`."""
        model = load_pretrained(
            "InternVLForConditionalGeneration", directory, dtype=dtype, device=device
        )
        preprocess = FramePreprocessor.from_directory(directory)
        processor = InternVLProcessor(load_tokenizer(directory), preprocess, model.config)
        return Checkpoint(model, processor, directory.name)


class InternVLProcessor(ChatProcessor):
    """A line for each frame: its number, and one placeholder for each cell."""

    frames = 8

    def __init__(self, tokenizer: Any, preprocess: FramePreprocessor, config: Any) -> None:
        super().__init__(tokenizer, getattr(tokenizer, "video_token", "<video>"))
        cell = tokenizer.convert_ids_to_tokens(config.image_token_id)
        begin = getattr(tokenizer, "start_image_token", "<img>")
        end = getattr(tokenizer, "end_image_token", "</img>")
        self.picture = begin + cell * _side(config) ** 2 + end
        self.preprocess = preprocess

    def video(self, frames: Tensor, times: Sequence[float]) -> tuple[str, dict[str, Tensor]]:
        """See :meth:`tokenreduce.chat.ChatProcessor.video`."""
        lines = (f"Frame{number + 1}: {self.picture}" for number in range(len(frames)))
        return "\n".join(lines), {"pixel_values": self.preprocess(frames)}


def _side(config: Any) -> int:
    """Return the tokens per side of a tile."""
    tower = config.vision_config
    return int(tower.image_size[0] // tower.patch_size[0] * config.downsample_ratio)


def _items(ids: Tensor, token: int, side: int) -> Iterator[Item]:
    for sample, row in enumerate(ids.tolist()):
        for group in clips(_pictures(row, token, side, sample), again=False):
            if tiles := group[0].lines:
                yield from ((Grid(1, side, side),) for _ in range(tiles[0]))
            else:
                yield tuple(Grid(1, side, side, frame) for frame in range(len(group)))


def _pictures(row: list[int], token: int, side: int, sample: int) -> Iterator[Picture]:
    for number, run in enumerate(runs(row, token)):
        tiles = require_tiles(run, side, sample)
        # Without </img> of the picture before, and <img>.
        caption = run.before[1:-1] if number else run.before[:-1]
        yield Picture(caption, (tiles,) if tiles > 1 else ())
