"""LLaVA-OneVision: one contiguous run per video, one learned newline token at its end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenreduce.adapter import Checkpoint, Inputs, ModelAdapter, Processor, expand_ids
from tokenreduce.errors import AdapterError
from tokenreduce.layout import Layout, Mark, Role, SampleLayout, Span, contiguous_runs
from tokenreduce.preprocess import FramePreprocessor

if TYPE_CHECKING:
    from torch import Tensor, nn


class LlavaOnevision(ModelAdapter):
    """Adapter for ``LlavaOnevisionForConditionalGeneration``.

    A video of T frames is T grids of ceil(g / 2) x ceil(g / 2) tokens, row by row, and one newline
    (g = image size / patch size). A lone image is its g x g base view, then the unpadded
    high-resolution view with a newline after each row: frames 0 and 1 of the item. An image among
    several is the base view and one newline.
    """

    name: ClassVar[str] = "llava_onevision"
    model_types: ClassVar[tuple[str, ...]] = ("llava_onevision",)

    def layout(self, model: nn.Module, inputs: Inputs) -> Layout:
        """See :meth:`tokenreduce.adapter.ModelAdapter.layout`."""
        config: Any = model.config
        ids = inputs["input_ids"]
        images = _image_spans(config, inputs)
        video_length = _video_length(config, inputs)
        samples = []
        for sample, row in enumerate(ids.tolist()):
            found = [
                (start, length, token)
                for token in (config.image_token_id, config.video_token_id)
                for start, length in contiguous_runs(value == token for value in row)
            ]
            spans: list[Span] = []
            marks: list[Mark] = []
            item = 0
            for start, length, token in sorted(found):
                end = start + length
                while start < end:
                    if token == config.video_token_id:
                        part = _video(config, start, video_length or length, item)
                    else:
                        part = _place(next(images, None), start, item, sample)
                    spans += part.spans
                    marks += part.marks
                    start += sum(s.length for s in part.spans) + len(part.marks)
                    item += 1
                if start != end:
                    raise AdapterError(
                        f"sample {sample}: the {length} visual tokens that end at position {end} "
                        "are not whole videos or images: were they prepared with this model's own "
                        "processor?"
                    )
            samples.append(SampleLayout(tuple(spans), tuple(marks)))
        return Layout.build(samples, ids.shape[1], inputs.get("attention_mask"))

    def encode_video(self, model: nn.Module, inputs: Inputs) -> dict[str, Any]:
        """See :meth:`tokenreduce.adapter.ModelAdapter.encode_video`."""
        import torch

        rest = dict(inputs)
        # The model takes encoded features or pixels, not both: images beside videos stay pixels.
        if rest.get("pixel_values") is not None:
            return rest
        pixels = rest.pop("pixel_values_videos", None)
        if pixels is None:
            return rest
        with torch.no_grad():
            features = model.get_video_features(pixels, return_dict=True)  # type: ignore[operator]
        return {**rest, "mm_encoder_outputs": {"video": features}}

    def load(self, directory: Path, *, dtype: str, device: str) -> Checkpoint:
        """See :meth:`tokenreduce.adapter.ModelAdapter.load`."""
        import torch
        from transformers import AutoTokenizer, LlavaOnevisionForConditionalGeneration

        model, info = LlavaOnevisionForConditionalGeneration.from_pretrained(
            directory,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            output_loading_info=True,
        )
        if missing := sorted(info["missing_keys"]):
            raise AdapterError(
                f"{directory}: the weights lack {len(missing)} of the model's tensors, the first "
                f"is '{missing[0]}'; a model with random parts would answer nonsense."
            )
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        processor = LlavaOnevisionProcessor(
            tokenizer, FramePreprocessor.from_directory(directory), model.config
        )
        return Checkpoint(model.to(device).eval(), processor, directory.name)


class LlavaOnevisionProcessor(Processor):
    """Chat template, placeholder expansion and frame preprocessing of one checkpoint."""

    def __init__(self, tokenizer: Any, preprocess: FramePreprocessor, config: Any) -> None:
        self.tokenizer, self.preprocess, self.config = tokenizer, preprocess, config

    def video_inputs(self, frames: Tensor, question: str) -> dict[str, Tensor]:
        """See :meth:`tokenreduce.adapter.Processor.video_inputs`."""
        import torch

        content = [{"type": "video"}, {"type": "text", "text": question}]
        prompt = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        count = len(frames) * _video_side(self.config) ** 2 + 1
        expanded = torch.tensor([expand_ids(ids, self.config.video_token_id, [count])])
        return {
            "input_ids": expanded,
            "attention_mask": torch.ones_like(expanded),
            "pixel_values_videos": self.preprocess(frames)[None],
        }

    def decode(self, token_ids: Tensor) -> str:
        """See :meth:`tokenreduce.adapter.Processor.decode`."""
        text: str = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        return text.strip()


def _base_side(config: Any) -> int:
    side: int = config.vision_config.image_size // config.vision_config.patch_size
    return side


def _video_side(config: Any) -> int:
    return math.ceil(_base_side(config) / 2)


def _video_length(config: Any, inputs: Inputs) -> int | None:
    """Return the tokens of each video of the batch, newline included; None if not known."""
    encoded = (inputs.get("mm_encoder_outputs") or {}).get("video")
    if encoded is not None:
        return int(encoded.pooler_output.shape[1])
    pixels = inputs.get("pixel_values_videos")
    return None if pixels is None else int(pixels.shape[1]) * _video_side(config) ** 2 + 1


def _video(config: Any, start: int, length: int, item: int) -> SampleLayout:
    side = _video_side(config)
    frames, rest = divmod(length - 1, side * side)
    if frames < 1 or rest:
        raise AdapterError(
            f"a run of {length} video tokens at position {start} is not whole frames of {side} x "
            f"{side} tokens and one newline: were they prepared with this model's own processor?"
        )
    newline = Mark(start + length - 1, Role.NEWLINE, item)
    return SampleLayout((Span(start, frames, side, side, item),), (newline,))


def _image_spans(config: Any, inputs: Inputs) -> Iterator[tuple[int, tuple[int, int] | None]]:
    """Yield, per image of the batch, its base side and the grid of its high-resolution view."""
    sizes = inputs.get("image_sizes")
    if sizes is None:
        return
    counts = inputs.get("batch_num_images")
    alone = [True] * len(sizes)
    if counts is not None:
        alone = [int(n) == 1 for n in counts for _ in range(int(n))]
    for size, patched in zip(sizes, alone, strict=True):
        height, width = (int(side) for side in size)
        yield _base_side(config), _anyres_grid(config, height, width) if patched else None


def _anyres_grid(config: Any, height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of the unpadded high-resolution view of an image of that size."""
    from transformers.models.llava_onevision.modeling_llava_onevision import (
        get_anyres_image_grid_shape,
    )

    base = _base_side(config)
    tiles = get_anyres_image_grid_shape(
        (height, width), config.image_grid_pinpoints, config.vision_config.image_size
    )
    rows, columns = tiles[0] * base, tiles[1] * base
    if width / height > columns / rows:
        rows -= 2 * ((rows - int(round(height * columns / width, 7))) // 2)
    else:
        columns -= 2 * ((columns - int(round(width * rows / height, 7))) // 2)
    most = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
    ratio = math.sqrt(rows * columns / (most * base**2))
    return (int(rows // ratio), int(columns // ratio)) if ratio > 1.1 else (rows, columns)


def _place(
    image: tuple[int, tuple[int, int] | None] | None, start: int, item: int, sample: int
) -> SampleLayout:
    if image is None:
        raise AdapterError(
            f"sample {sample}: there is an image at position {start}, but image_sizes describes "
            "fewer images: pass the image_sizes that the processor returned."
        )
    base, view = image
    spans = [Span(start, 1, base, base, item)]
    start += base * base
    if view is None:
        return SampleLayout(tuple(spans), (Mark(start, Role.NEWLINE, item),))
    marks = []
    for row in range(view[0]):
        spans.append(Span(start, 1, 1, view[1], item, first_frame=1, first_row=row))
        start += view[1]
        marks.append(Mark(start, Role.NEWLINE, item))
        start += 1
    return SampleLayout(tuple(spans), tuple(marks))
