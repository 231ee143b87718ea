"""Ovis2: an image is a view of all of it, then its tiles with indicator tokens between them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenreduce.adapter import Checkpoint, Inputs, ModelAdapter
from tokenreduce.chat import PicturesOnly
from tokenreduce.errors import AdapterError
from tokenreduce.features import has_images
from tokenreduce.layout import Layout
from tokenreduce.placement import Grid, Item, place
from tokenreduce.pretrained import load_pretrained, load_tokenizer
from tokenreduce.tiles import require_tiles, runs, tiled

if TYPE_CHECKING:
    from torch import Tensor, nn


class Ovis2(ModelAdapter):
    """Adapter for ``Ovis2ForConditionalGeneration``.

    An image is ``<IMG_START>``, a view of all of it, ``<IMG_GRID>``, its tiles with ``<IMG_COL>``
    between those of one row and ``<IMG_ROW>`` between rows, and ``<IMG_END>``; view and tiles are
    s x s tokens each (s = 16). The view is frame 0 of the item; the tiles are frame 1, one grid. A
    small image has no tiles. Indicators behind tokens are separators of the item; the first is
    text. There is no video.
    """

    name: ClassVar[str] = "ovis2"
    model_types: ClassVar[tuple[str, ...]] = ("ovis2",)

    def layout(self, model: nn.Module, inputs: Inputs) -> Layout:
        """See :meth:`tokenreduce.adapter.ModelAdapter.layout`."""
        config: Any = model.config
        ids, token = inputs["input_ids"], config.image_token_id
        items = _items(ids, config) if has_images(inputs) else ()
        mask, (_, *inner) = inputs.get("attention_mask"), config.visual_indicator_token_ids
        return place(ids, {token: items}, mask, separators=inner)

    def load(self, directory: Path, *, dtype: str, device: str) -> Checkpoint:
        """See :meth:`tokenreduce.adapter.ModelAdapter.load`."""
        model = load_pretrained(
            "Ovis2ForConditionalGeneration", directory, dtype=dtype, device=device
        )
        processor = PicturesOnly(load_tokenizer(directory, template=False), "Ovis2")
        return Checkpoint(model, processor, directory.name)


def _side(config: Any) -> int:
    """Return the tokens per side of a view or tile: the tower's patches are padded to strides."""
    tower = config.vision_config
    return math.ceil(int(tower.image_size // tower.patch_size) / int(tower.hidden_stride))


def _items(ids: Tensor, config: Any) -> Iterator[Item]:
    side = _side(config)
    for sample, row in enumerate(ids.tolist()):
        for lines in _images(row, config, side, sample):
            yield Grid(1, side, side), *tiled(lines, side, 1, sample)


def _images(row: list[int], config: Any, side: int, sample: int) -> list[list[int]]:
    """Return for each image of a sample the number of tiles in each row of tiles."""
    start, grid, column, line, _ = config.visual_indicator_token_ids
    found: list[list[int]] = []
    for number, run in enumerate(runs(row, config.image_token_id)):
        indicator = run.before[-1] if run.before else None
        known = [start]
        if found:
            known += [column, line] if found[-1] else [grid]
        if require_tiles(run, side, sample) != 1 or indicator not in known:
            raise AdapterError(
                f"sample {sample}: run {number} of image placeholders has {run.tokens} of them "
                f"behind the token {indicator}, not {side**2} behind one of {known}: write the "
                "prompt with this model's own processor."
            )
        if indicator == start:
            found.append([])
        elif indicator == column:
            found[-1][-1] += 1
        else:
            found[-1].append(1)
    return found
