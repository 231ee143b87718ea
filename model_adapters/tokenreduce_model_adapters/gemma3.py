"""Gemma 3: square images whose tokens see each other, and mostly sliding-window layers."""

from __future__ import annotations

import math
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenreduce.adapter import Checkpoint, Inputs, ModelAdapter
from tokenreduce.chat import PicturesOnly
from tokenreduce.features import has_images
from tokenreduce.layout import Layout
from tokenreduce.placement import Grid, place
from tokenreduce.pretrained import load_pretrained, load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor, nn


class Gemma3(ModelAdapter):
    """Adapter for ``Gemma3ForConditionalGeneration``.

    An image is one square grid of ``mm_tokens_per_image`` tokens, 16 x 16, between two text tokens
    of its own. With pan-and-scan, crops of an image follow it: each is an item of its own. In the
    prefill the tokens of an image see each other, later ones as well. There is no video.
    """

    name: ClassVar[str] = "gemma3"
    model_types: ClassVar[tuple[str, ...]] = ("gemma3",)

    def layout(self, model: nn.Module, inputs: Inputs) -> Layout:
        """See :meth:`tokenreduce.adapter.ModelAdapter.layout`."""
        config: Any = model.config
        side = math.isqrt(config.mm_tokens_per_image)
        images = repeat((Grid(1, side, side),)) if has_images(inputs) else ()
        items = {config.image_token_id: images}
        return place(inputs["input_ids"], items, inputs.get("attention_mask"))

    def blocks(self, model: nn.Module, inputs: Inputs, layout: Layout) -> Tensor | None:
        """See :meth:`tokenreduce.adapter.ModelAdapter.blocks`.

        The model itself finds the images in ``token_type_ids``, which cover earlier turns as well:
        a run of ones is an image. Without them it attends causally throughout.
        """
        import torch

        types: Tensor | None = inputs.get("token_type_ids")
        if types is None:
            return None
        image = types[:, -layout.length :] == 1
        first = image & ~torch.nn.functional.pad(image, (1, 0))[:, :-1]
        return (first.cumsum(dim=1) - 1).masked_fill(~image, -1)

    def load(self, directory: Path, *, dtype: str, device: str) -> Checkpoint:
        """See :meth:`tokenreduce.adapter.ModelAdapter.load`."""
        model = load_pretrained(
            "Gemma3ForConditionalGeneration", directory, dtype=dtype, device=device
        )
        processor = PicturesOnly(load_tokenizer(directory, template=False), "Gemma 3")
        return Checkpoint(model, processor, directory.name)
