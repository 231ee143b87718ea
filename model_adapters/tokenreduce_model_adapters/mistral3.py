"""Mistral 3 with Pixtral's tower: images of any size, rows with a break token after each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenreduce.adapter import Checkpoint, Inputs, ModelAdapter
from tokenreduce.chat import PicturesOnly
from tokenreduce.layout import Layout
from tokenreduce.placement import Grid, Item, place
from tokenreduce.pretrained import load_pretrained, load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor, nn


class Mistral3(ModelAdapter):
    """Adapter for ``Mistral3ForConditionalGeneration``.

    An image of height H and width W is H / c rows of W / c tokens, c being the patch size times
    the merge of the projector, 14 x 2. A break token follows each row but the last, and an end
    token that one: separators of the item. There is no video.
    """

    name: ClassVar[str] = "mistral3"
    model_types: ClassVar[tuple[str, ...]] = ("mistral3",)

    def layout(self, model: nn.Module, inputs: Inputs) -> Layout:
        """See :meth:`tokenreduce.adapter.ModelAdapter.layout`."""
        config: Any = model.config
        ids, token = inputs["input_ids"], config.image_token_id
        images = {token: _images(config, inputs.get("image_sizes"))}
        mask = inputs.get("attention_mask")
        return place(ids, images, mask, separators=_separators(ids, token))

    def load(self, directory: Path, *, dtype: str, device: str) -> Checkpoint:
        """See :meth:`tokenreduce.adapter.ModelAdapter.load`."""
        model = load_pretrained(
            "Mistral3ForConditionalGeneration", directory, dtype=dtype, device=device
        )
        processor = PicturesOnly(load_tokenizer(directory, template=False), "Mistral 3")
        return Checkpoint(model, processor, directory.name)


def _images(config: Any, sizes: Tensor | None) -> Iterator[Item]:
    """Yield the images of a batch row by row; ``sizes`` is ``[images, 2]``, in pixels."""
    cell = config.vision_config.patch_size * config.spatial_merge_size
    for height, width in [] if sizes is None else sizes.tolist():
        rows, columns = height // cell, width // cell
        yield tuple(Grid(1, 1, columns, first_row=row) for row in range(rows))


def _separators(ids: Tensor, token: int) -> frozenset[int]:
    """Return the ids of the break and the end token, which the configuration does not name.

    One of them follows every row.
    """
    image = ids == token
    after = image[:, :-1] & ~image[:, 1:]
    return frozenset(ids[:, 1:][after].tolist())
