"""LLaVA-NeXT (LLaVA-1.6): a base view of each image, and a finer one with a newline per row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenreduce.adapter import Checkpoint, Inputs, ModelAdapter
from tokenreduce.anyres import tiled_images
from tokenreduce.chat import PicturesOnly
from tokenreduce.layout import Layout
from tokenreduce.placement import place
from tokenreduce.pretrained import load_pretrained, load_tokenizer

if TYPE_CHECKING:
    from torch import nn


class LlavaNext(ModelAdapter):
    """Adapter for ``LlavaNextForConditionalGeneration``.

    An image is its g x g base view (g = image size / patch size, 24), then the high-resolution view
    of its tiles without their padding, with a learned newline token after each row: frames 0 and 1
    of the item. Newlines have the image's token id and no cell. There is no video.
    """

    name: ClassVar[str] = "llava_next"
    model_types: ClassVar[tuple[str, ...]] = ("llava_next",)

    def layout(self, model: nn.Module, inputs: Inputs) -> Layout:
        """See :meth:`tokenreduce.adapter.ModelAdapter.layout`."""
        config: Any = model.config
        items = {config.image_token_id: tiled_images(config, inputs)}
        return place(inputs["input_ids"], items, inputs.get("attention_mask"))

    def load(self, directory: Path, *, dtype: str, device: str) -> Checkpoint:
        """See :meth:`tokenreduce.adapter.ModelAdapter.load`."""
        model = load_pretrained(
            "LlavaNextForConditionalGeneration", directory, dtype=dtype, device=device
        )
        processor = PicturesOnly(load_tokenizer(directory), "LLaVA-NeXT")
        return Checkpoint(model, processor, directory.name)
