"""SmolVLM: a video is images with a time in front of each; an image is tiles and a view of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenreduce.adapter import Checkpoint, Inputs, ModelAdapter
from tokenreduce.chat import ChatProcessor
from tokenreduce.errors import AdapterError
from tokenreduce.features import encoded_images, has_images
from tokenreduce.layout import Layout
from tokenreduce.placement import place
from tokenreduce.preprocess import (
    FramePreprocessor,
    Size,
    pixel_settings,
    processor_settings,
    resized,
)
from tokenreduce.pretrained import load_pretrained, load_tokenizer
from tokenreduce.tiles import bracketed_items, shuffled_side

if TYPE_CHECKING:
    from torch import Tensor, nn


class SmolVLM(ModelAdapter):
    """Adapter for ``SmolVLMForConditionalGeneration``.

    An image is a line for each row of its tiles, then a view of all of it, each of s x s tokens
    behind ``<fake_token_around_image>`` and a marker such as ``<row_1_col_2>`` or ``<global-img>``
    (s = image size / patch size / scale factor). The tiles are frame 0 of the item, one grid; the
    view is frame 1. A video is one view per frame behind a line such as ``Frame from 00:01:``, and
    one item: views alone whose captions count on are frames of one video. All the rest is text.
    """

    name: ClassVar[str] = "smolvlm"
    model_types: ClassVar[tuple[str, ...]] = ("smolvlm",)

    def layout(self, model: nn.Module, inputs: Inputs) -> Layout:
        """See :meth:`tokenreduce.adapter.ModelAdapter.layout`."""
        config: Any = model.config
        ids, token = inputs["input_ids"], config.image_token_id
        items = bracketed_items(ids, token, shuffled_side(config)) if has_images(inputs) else ()
        return place(ids, {token: items}, inputs.get("attention_mask"))

    def encode_video(self, model: nn.Module, inputs: Inputs) -> dict[str, Any]:
        """See :meth:`tokenreduce.adapter.ModelAdapter.encode_video`."""
        return encoded_images(model, inputs, "pixel_attention_mask")

    def load(self, directory: Path, *, dtype: str, device: str) -> Checkpoint:
        """See :meth:`tokenreduce.adapter.ModelAdapter.load`."""
        model = load_pretrained(
            "SmolVLMForConditionalGeneration", directory, dtype=dtype, device=device
        )
        tokenizer = load_tokenizer(directory, template=False)
        processor = SmolVLMProcessor(tokenizer, TwiceResized(directory), model.config)
        return Checkpoint(model, processor, directory.name)


class SmolVLMProcessor(ChatProcessor):
    """How many frames there are and how long the clip is; then for each frame its time and view.

    The length of a clip is not known here: the time of the last frame stands in its place.
    """

    def __init__(self, tokenizer: Any, preprocess: TwiceResized, config: Any) -> None:
        from transformers.models.smolvlm import processing_smolvlm as published

        # transformers uses this template for videos, whatever the checkpoint brings.
        tokenizer.chat_template = published.DEFAULT_CHAT_TEMPLATE
        super().__init__(tokenizer, getattr(tokenizer, "video_token", "<video>"))
        self.preprocess, self.published = preprocess, published
        self.frames, self.sampling = preprocess.frames, f"fps:{preprocess.fps}"
        bracket = getattr(tokenizer, "fake_image_token", "<fake_token_around_image>")
        marker = getattr(tokenizer, "global_image_token", "<global-img>")
        cell = tokenizer.convert_ids_to_tokens(config.image_token_id)
        self.view = bracket + marker + cell * shuffled_side(config) ** 2 + bracket

    def video(self, frames: Tensor, times: Sequence[float]) -> tuple[str, dict[str, Tensor]]:
        """See :meth:`tokenreduce.chat.ChatProcessor.video`."""
        import torch

        written = self.published.DEFAULT_VIDEO_INTRO.format(
            frame_count=in_words(len(frames)), video_duration=timedelta(seconds=int(times[-1]))
        )
        for time in times:
            minutes, seconds = divmod(int(time), 60)
            stamp = f"{minutes:02d}:{seconds:02d}"
            written += self.published.FRAME_TIMESTAMP_MESSAGE.format(timestamp=stamp) + self.view
        pixels = self.preprocess(frames)[None]
        inputs = {"pixel_values": pixels}
        if self.preprocess.masked:
            shape = (*pixels.shape[:2], *pixels.shape[3:])
            inputs["pixel_attention_mask"] = torch.ones(shape, dtype=torch.int64)
        return written + self.published.DEFAULT_MEDIA_OUTTRO, inputs


class TwiceResized:
    """Resize frames to one longest edge, then to the square of the tower, and normalise them.

    Parameters
    ----------
    directory
        Of the checkpoint; see :func:`tokenreduce.preprocess.processor_settings` for the files.

    Raises
    ------
    AdapterError
        If no settings are there, or they are not usable.
    """

    def __init__(self, directory: Path) -> None:
        values, where = processor_settings(directory)
        clips = values.get("video_sampling") or {}
        self.frames = clips.get("max_frames") or values.get("num_frames") or 64
        self.fps = clips.get("fps") or values.get("fps") or 1
        if "video_size" in clips:
            values = {"size": clips["video_size"], **values}
        side = _longest_edge(values, "max_image_size", 364, where)
        self.longest = min(4096, _longest_edge(values, "size", 4 * 364, where))
        self.masked: bool = values.get("do_pad", True)
        half = (0.5, 0.5, 0.5)
        settings = {"mean": half, "std": half, "resample": "lanczos", **pixel_settings(values)}
        settings["size"] = Size(height=side, width=side)
        self.normalise = FramePreprocessor.from_settings(settings, where)

    def __call__(self, frames: Tensor) -> Tensor:
        """Return pixels ``[frames, 3, side, side]`` of uint8 ``[frames, height, width, 3]``."""
        height, width = frames.shape[1:3]
        # Rounded as transformers rounds, the shorter edge up to an even number.
        if width >= height:
            shape = (_even(self.longest / (width / height)), self.longest)
        else:
            shape = (self.longest, _even(self.longest * (width / height)))
        return self.normalise(resized(frames, shape, self.normalise.resample))


def _even(edge: float) -> int:
    return max(1, int(edge) + int(edge) % 2)


def _longest_edge(values: dict[str, Any], key: str, default: int, where: str) -> int:
    size = values.get(key, {"longest_edge": default})
    edge = size.get("longest_edge") if isinstance(size, dict) else None
    if not isinstance(edge, int) or edge < 1:
        raise AdapterError(f"{where}: {key}={size!r} has no longest_edge, in pixels.")
    return edge


ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def in_words(number: int) -> str:
    """Return an English number below 1000, as the prompts that the model was trained on write it.

    Raises
    ------
    AdapterError
        If it is larger.
    """
    if number >= 1000:
        raise AdapterError(
            f"{number} frames were given, but the prompt of SmolVLM writes their number in words, "
            "here up to 999: give fewer."
        )
    hundreds, rest = divmod(number, 100)
    if hundreds:
        return f"{ONES[hundreds]} hundred" + (f" and {in_words(rest)}" if rest else "")
    if number < 20:
        return ONES[number]
    tens, ones = divmod(number, 10)
    return TENS[tens - 2] + (f"-{ONES[ones]}" if ones else "")
