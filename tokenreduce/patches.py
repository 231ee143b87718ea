"""Turn a clip into the flat patches that vision towers of variable resolution take, by torch alone.

Such a tower has no fixed picture size: a clip keeps its shape and is resized to a budget of pixels.
Patches come in the order in which the model joins them: the patches of one merged cell follow one
another, cells go row by row, and a few frames at a time are one group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokenreduce.adapter import Inputs
from tokenreduce.chat import ChatProcessor
from tokenreduce.errors import AdapterError
from tokenreduce.placement import Grid, Item, place
from tokenreduce.preprocess import FramePreprocessor, Size, pixel_settings, processor_settings

if TYPE_CHECKING:
    from torch import Tensor

    from tokenreduce.layout import Layout

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
_LONGEST_SHAPE = 200  # longer side / shorter side


def merged_grids(sizes: Tensor | None, merge: int) -> Iterator[Grid]:
    """Yield the cells of each image or video.

    Parameters
    ----------
    sizes
        ``[items, 3]`` int64: groups of frames, rows and columns in patches (``image_grid_thw``,
        ``video_grid_thw``); None if there are no items.
    merge
        Patches per side of a cell.
    """
    for frames, rows, columns in [] if sizes is None else sizes.tolist():
        yield Grid(frames, rows // merge, columns // merge)


def require_types(inputs: Inputs) -> None:
    """Check that the model can number the tokens of pictures by time, row and column.

    Without ``mm_token_type_ids`` some forwards, and every ``generate``, number them like text and
    say nothing.

    Raises
    ------
    AdapterError
        If there are pictures and no such input.
    """
    sizes = [name for name in ("image_grid_thw", "video_grid_thw") if inputs.get(name) is not None]
    if sizes and inputs.get("mm_token_type_ids") is None:
        raise AdapterError(
            f"{' and '.join(sizes)} came without mm_token_type_ids, so the model would number "
            "positions as if there were text alone: pass all that its processor returned."
        )


def whole(grid: Grid) -> Item:
    """Return an image or video as one run of tokens."""
    return (grid,)


def by_frame(grid: Grid) -> Item:
    """Return a video as one run per frame, for families that write text between frames."""
    return tuple(Grid(1, grid.rows, grid.columns, frame) for frame in range(grid.frames))


def place_merged(config: Any, inputs: Inputs, parts: Callable[[Grid], Item]) -> Layout:
    """Lay out a batch of a model with one placeholder for images and one for videos.

    Parameters
    ----------
    config
        Of the model: its two token ids, and the merge of its vision tower.
    inputs
        Of its forward: ``image_grid_thw`` and ``video_grid_thw`` as for :func:`merged_grids`.
    parts
        :func:`whole` or :func:`by_frame`.

    Raises
    ------
    AdapterError
        As of :func:`require_types` and :func:`tokenreduce.placement.place`.
    """
    require_types(inputs)
    merge = config.vision_config.spatial_merge_size
    items = {
        config.image_token_id: map(parts, merged_grids(inputs.get("image_grid_thw"), merge)),
        config.video_token_id: map(parts, merged_grids(inputs.get("video_grid_thw"), merge)),
    }
    return place(inputs["input_ids"], items, inputs.get("attention_mask"))


class PatchPreprocessor(BaseModel):
    """Resize a clip to a budget of pixels, normalise it and cut it into patches.

    Attributes
    ----------
    least, most : int
        Bounds, in pixels, of what ``budget`` says.
    budget : str
        ``frame``: each frame has both bounds. ``clip``: both are for all frames together.
        ``share``: ``most`` is for all frames together, in equal shares; ``least`` for each.
    patch, merge, temporal : int
        Pixels per side of a patch, patches per side of a cell, frames per group.
    cap : int or None
        Tokens that a clip (``frame``) or one frame (``clip``) may have: what checkpoints call
        ``cap_pixels_per_frame`` with ``max_video_tokens``. None: no such bound.
    mean, std, rescale, resample
        As of :class:`tokenreduce.preprocess.FramePreprocessor`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    least: int = Field(gt=0)
    most: int = Field(gt=0)
    budget: Literal["frame", "clip", "share"]
    patch: int = Field(14, gt=0)
    merge: int = Field(2, gt=0)
    temporal: int = Field(2, gt=0)
    cap: int | None = Field(None, gt=0)
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    rescale: float = Field(1 / 255, gt=0)
    resample: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"

    @classmethod
    def from_directory(
        cls, path: Path, default: PatchPreprocessor, *, cap: int | None = None
    ) -> PatchPreprocessor:
        """Read the settings of a checkpoint directory.

        Parameters
        ----------
        path
            See :func:`tokenreduce.preprocess.processor_settings` for the files.
        default
            What holds where the files say nothing.
        cap
            Value of :attr:`cap` where the files switch it on and give none.

        Raises
        ------
        AdapterError
            No settings are there, or they are not usable.
        """
        values, where = processor_settings(path)
        given = default.model_dump() | pixel_settings(values) | _budget(values, default, where)
        for key, name in (
            ("patch", "patch_size"),
            ("merge", "merge_size"),
            ("temporal", "temporal_patch_size"),
        ):
            given[key] = values.get(name, given[key])
        if cap is not None and values.get("cap_pixels_per_frame"):
            given["cap"] = values.get("max_video_tokens", cap)
        try:
            return cls(**given)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise AdapterError(f"{where}: {field}: {first['msg']} ({first['input']!r}).") from error

    @property
    def cell(self) -> int:
        """Pixels per side of a merged cell."""
        return self.patch * self.merge

    def groups(self, frames: int) -> int:
        """Return how many groups a clip of ``frames`` makes; the last frame fills the last one."""
        return -(-frames // self.temporal)

    def size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        """Return height and width that frames are resized to: whole cells, within the budget.

        Parameters
        ----------
        frames
            Frames of the clip.
        height, width
            Of its frames, in pixels.

        Raises
        ------
        AdapterError
            If there are too few frames for a group, or one side is over 200 times the other.
        """
        if max(height, width) > _LONGEST_SHAPE * min(height, width):
            raise AdapterError(
                f"frames of {width} x {height} pixels are refused: one side is more than "
                f"{_LONGEST_SHAPE} times the other, which this family was not made for."
            )
        cell, counted, rounded = self.cell, 1, 1
        if self.budget == "clip":
            if frames < self.temporal:
                raise AdapterError(
                    f"{frames} frame was given, but this family joins {self.temporal} to a group: "
                    f"give {self.temporal} frames or more."
                )
            counted, rounded = frames, round(frames / self.temporal) * self.temporal
            if height < cell or width < cell:
                scale = max(cell / height, cell / width)
                height, width = int(height * scale), int(width * scale)
        least, most = self.least, self._most(frames)
        rows, columns = round(height / cell), round(width / cell)
        pixels = rounded * rows * columns * cell**2
        if pixels > most:
            shrink = math.sqrt((counted * height * width) / most)
            rows = max(1, math.floor(height / shrink / cell))
            columns = max(1, math.floor(width / shrink / cell))
        elif pixels < least:
            grow = math.sqrt(least / (counted * height * width))
            rows, columns = math.ceil(height * grow / cell), math.ceil(width * grow / cell)
        return rows * cell, columns * cell

    def _most(self, frames: int) -> int:
        if self.budget == "share":
            return self.most // frames
        if self.cap is None:
            return self.most
        floor = int(self.least * 1.05)
        if self.budget == "clip":
            each = min(self.cap * self.cell**2, self.most // frames)
            return max(each, floor) * frames
        share = int(self.cap * self.cell**2 * 0.9) * self.temporal // frames
        return max(min(self.most, share), floor)

    def __call__(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return the patches of a clip, and how they lie.

        Parameters
        ----------
        frames
            uint8 ``[frames, height, width, 3]``, RGB.

        Returns
        -------
        tuple of Tensor
            float32 ``[patches, 3 * temporal * patch * patch]``, and int64 ``[1, 3]``: groups of
            frames, rows and columns in patches.
        """
        import torch

        count, height, width, _ = frames.shape
        height, width = self.size(count, height, width)
        resize = FramePreprocessor(
            size=Size(height=height, width=width),
            mean=self.mean,
            std=self.std,
            rescale=self.rescale,
            resample=self.resample,
        )
        pixels = resize(frames)
        groups, side = self.groups(count), self.patch
        if missing := groups * self.temporal - count:
            pixels = torch.cat([pixels, pixels[-1:].expand(missing, -1, -1, -1)])
        rows, columns = height // side, width // side
        cells = pixels.view(
            groups,
            self.temporal,
            3,
            rows // self.merge,
            self.merge,
            side,
            columns // self.merge,
            self.merge,
            side,
        )
        # group, cell row, cell column, patch row and column within it, channel, frame, y, x
        ordered = cells.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
        flat = ordered.reshape(groups * rows * columns, 3 * self.temporal * side**2)
        return flat, torch.tensor([[groups, rows, columns]])


def _budget(values: dict[str, Any], default: PatchPreprocessor, where: str) -> dict[str, Any]:
    """Read the bounds, as newer checkpoints write them and as older ones do."""
    size = values.get("size") or {}
    if not isinstance(size, dict):
        raise AdapterError(
            f"{where}: size={size!r} has no shortest_edge and longest_edge, in pixels of a frame "
            "or clip."
        )
    found = {"least": size.get("shortest_edge"), "most": size.get("longest_edge")}
    if default.budget != "clip":
        found["least"] = values.get("min_pixels") or found["least"]
        found["most"] = values.get("max_pixels") or found["most"]
    return {name: pixels for name, pixels in found.items() if pixels is not None}


class PatchProcessor(ChatProcessor):
    """One placeholder for each cell of each group of frames.

    Parameters
    ----------
    tokenizer
        As for :class:`tokenreduce.chat.ChatProcessor`.
    preprocess
        Frames to patches.
    token
        Id of the placeholder.
    """

    def __init__(self, tokenizer: Any, preprocess: PatchPreprocessor, token: int) -> None:
        super().__init__(tokenizer, tokenizer.convert_ids_to_tokens(token), typed=token)
        self.preprocess = preprocess

    def video(self, frames: Tensor, times: Sequence[float]) -> tuple[str, dict[str, Tensor]]:
        """See :meth:`tokenreduce.chat.ChatProcessor.video`."""
        pixels, size = self.preprocess(frames)
        (grid,) = merged_grids(size, self.preprocess.merge)
        count = grid.frames * grid.rows * grid.columns
        return self.placeholder * count, {"pixel_values_videos": pixels, "video_grid_thw": size}
