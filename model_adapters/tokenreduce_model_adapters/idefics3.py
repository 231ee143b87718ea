"""Idefics3: an image is rows of tiles, and a view of all of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenreduce.adapter import Checkpoint, Inputs, ModelAdapter
from tokenreduce.chat import PicturesOnly
from tokenreduce.features import has_images
from tokenreduce.layout import Layout
from tokenreduce.placement import place
from tokenreduce.pretrained import load_pretrained, load_tokenizer
from tokenreduce.tiles import bracketed_items, shuffled_side

if TYPE_CHECKING:
    from torch import nn


class Idefics3(ModelAdapter):
    """Adapter for ``Idefics3ForConditionalGeneration``.

    An image is a line for each row of its tiles, then a view of all of it, each of s x s tokens
    behind ``<fake_token_around_image>`` and a marker such as ``<row_1_col_2>`` or ``<global-img>``
    (s = image size / patch size / scale factor, 13). The tiles are frame 0 of the item, one grid;
    the view is frame 1. A small image is the view alone. Markers are text. There is no video.
    """

    name: ClassVar[str] = "idefics3"
    model_types: ClassVar[tuple[str, ...]] = ("idefics3",)

    def layout(self, model: nn.Module, inputs: Inputs) -> Layout:
        """See :meth:`tokenreduce.adapter.ModelAdapter.layout`."""
        config: Any = model.config
        ids, token = inputs["input_ids"], config.image_token_id
        items = bracketed_items(ids, token, shuffled_side(config)) if has_images(inputs) else ()
        return place(ids, {token: items}, inputs.get("attention_mask"))

    def load(self, directory: Path, *, dtype: str, device: str) -> Checkpoint:
        """See :meth:`tokenreduce.adapter.ModelAdapter.load`."""
        model = load_pretrained(
            "Idefics3ForConditionalGeneration", directory, dtype=dtype, device=device
        )
        processor = PicturesOnly(load_tokenizer(directory, template=False), "Idefics3")
        return Checkpoint(model, processor, directory.name)
