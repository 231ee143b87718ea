"""ViP-LLaVA: LLaVA-1.5's layout, with features of five layers of the tower in each token."""

from __future__ import annotations

from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenreduce.adapter import Checkpoint, Inputs, ModelAdapter
from tokenreduce.anyres import base_view
from tokenreduce.chat import PicturesOnly
from tokenreduce.features import has_images
from tokenreduce.layout import Layout
from tokenreduce.placement import place
from tokenreduce.pretrained import load_pretrained, load_tokenizer

if TYPE_CHECKING:
    from torch import nn


class VipLlava(ModelAdapter):
    """Adapter for ``VipLlavaForConditionalGeneration``.

    An image is g x g tokens, row by row (g = image size / patch size, 24); the tower's class token
    is dropped. Boxes and arrows are drawn into the picture: they have no tokens of their own.
    There is no video.
    """

    name: ClassVar[str] = "vipllava"
    model_types: ClassVar[tuple[str, ...]] = ("vipllava",)

    def layout(self, model: nn.Module, inputs: Inputs) -> Layout:
        """See :meth:`tokenreduce.adapter.ModelAdapter.layout`."""
        config: Any = model.config
        images = repeat((base_view(config),)) if has_images(inputs) else ()
        items = {config.image_token_id: images}
        return place(inputs["input_ids"], items, inputs.get("attention_mask"))

    def load(self, directory: Path, *, dtype: str, device: str) -> Checkpoint:
        """See :meth:`tokenreduce.adapter.ModelAdapter.load`."""
        model = load_pretrained(
            "VipLlavaForConditionalGeneration", directory, dtype=dtype, device=device
        )
        processor = PicturesOnly(load_tokenizer(directory), "ViP-LLaVA")
        return Checkpoint(model, processor, directory.name)
