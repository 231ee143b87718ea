"""LLaVA-1.5: one square grid of tokens for each image, and nothing around it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenreduce.adapter import Checkpoint, Inputs, ModelAdapter
from tokenreduce.anyres import base_view
from tokenreduce.chat import PicturesOnly
from tokenreduce.features import has_images
from tokenreduce.layout import Layout, Role
from tokenreduce.placement import Item, place
from tokenreduce.pretrained import load_pretrained, load_tokenizer

if TYPE_CHECKING:
    from torch import nn


class Llava(ModelAdapter):
    """Adapter for ``LlavaForConditionalGeneration``.

    An image is g x g tokens, row by row (g = image size / patch size, 24). Where the strategy of
    feature selection is ``full``, the class token of a CLIP tower comes before them; a SigLIP tower
    has none. There is no video.
    """

    name: ClassVar[str] = "llava"
    model_types: ClassVar[tuple[str, ...]] = ("llava",)

    @classmethod
    def claims(cls, config: Mapping[str, Any]) -> bool:
        """See :meth:`tokenreduce.adapter.ModelAdapter.claims`; PLLaVA is another family."""
        other = "PllavaForConditionalGeneration" in (config.get("architectures") or ())
        return super().claims(config) and not other

    def layout(self, model: nn.Module, inputs: Inputs) -> Layout:
        """See :meth:`tokenreduce.adapter.ModelAdapter.layout`."""
        config: Any = model.config
        images = repeat(_image(config)) if has_images(inputs) else ()
        items = {config.image_token_id: images}
        return place(inputs["input_ids"], items, inputs.get("attention_mask"))

    def load(self, directory: Path, *, dtype: str, device: str) -> Checkpoint:
        """See :meth:`tokenreduce.adapter.ModelAdapter.load`."""
        model = load_pretrained(
            "LlavaForConditionalGeneration", directory, dtype=dtype, device=device
        )
        processor = PicturesOnly(load_tokenizer(directory), "LLaVA-1.5")
        return Checkpoint(model, processor, directory.name)


def _image(config: Any) -> Item:
    full = config.vision_feature_select_strategy == "full"
    clip = config.vision_config.model_type == "clip_vision_model"
    return (Role.CLS, base_view(config)) if full and clip else (base_view(config),)
