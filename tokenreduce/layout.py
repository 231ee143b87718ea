"""Where the visual tokens of a batch sit: each position's role, item and grid cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Literal

from tokenreduce.errors import LayoutError

if TYPE_CHECKING:
    from torch import Tensor


class Role(IntEnum):
    """What a sequence position is to a reducer. Only GRID tokens are ever reduced."""

    PAD = -1
    TEXT = 0
    GRID = 1
    NEWLINE = 2
    CLS = 3
    SEPARATOR = 4


@dataclass(frozen=True, slots=True)
class Span:
    """One contiguous run of grid tokens of one item, frame by frame.

    Parameters
    ----------
    start
        Sequence position of the first token, in tokens from the left, padding included.
    frames, rows, columns
        Size of the grid; ``frames * rows * columns`` tokens follow one another.
    item
        Which image or video of the sample this is; runs of one video share it.
    first_frame
        Frame number of the run's first frame, for videos cut into several runs.
    first_row
        Row number of the run's first row, for frames cut into several runs.
    first_column
        Column number of the run's first column, for frames cut into tiles.
    order
        ``row``: a frame is stored row by row; ``column``: column by column (VILA1.5).
    """

    start: int
    frames: int
    rows: int
    columns: int
    item: int = 0
    first_frame: int = 0
    first_row: int = 0
    first_column: int = 0
    order: Literal["row", "column"] = "row"

    @property
    def length(self) -> int:
        """Number of tokens of the run."""
        return self.frames * self.rows * self.columns


@dataclass(frozen=True, slots=True)
class Mark:
    """One visual token that has no grid cell: a newline, CLS token or separator of an item."""

    position: int
    role: Role
    item: int = 0


@dataclass(frozen=True, slots=True)
class SampleLayout:
    """What one row of a batch holds, before it becomes tensors.

    Parameters
    ----------
    spans
        Runs of grid tokens.
    marks
        Visual tokens without a grid cell.
    """

    spans: tuple[Span, ...] = ()
    marks: tuple[Mark, ...] = ()


_TENSORS = ("role", "item", "frame", "row", "column")


@dataclass(frozen=True, slots=True)
class Layout:
    """Role, item and grid cell of every position of a batch.

    Attributes
    ----------
    role
        ``[batch, tokens]`` int64, values of :class:`Role`.
    item, frame, row, column
        ``[batch, tokens]`` int64; -1 where a position belongs to no item or has no cell.
    note
        How the layout came about, if a reader of the trace should know.
    """

    role: Tensor
    item: Tensor
    frame: Tensor
    row: Tensor
    column: Tensor
    note: str = ""

    @classmethod
    def build(
        cls,
        samples: Sequence[SampleLayout],
        length: int,
        attention_mask: Tensor | None = None,
        *,
        note: str = "",
    ) -> Layout:
        """Lay out a batch from its runs.

        Parameters
        ----------
        samples
            One entry per row of the batch.
        length
            Tokens per row, padding included.
        attention_mask
            ``[batch, tokens]``, 0 at padding; None if nothing is padded.

        Raises
        ------
        LayoutError
            If a run leaves the sequence, covers padding, or overlaps another.
        """
        import torch

        shape = (len(samples), length)
        role = torch.full(shape, int(Role.TEXT), dtype=torch.long)
        item, frame, row, column = (torch.full(shape, -1, dtype=torch.long) for _ in range(4))
        if attention_mask is not None:
            if tuple(attention_mask.shape) != shape:
                raise LayoutError(
                    f"attention mask of shape {tuple(attention_mask.shape)} does not fit a layout "
                    f"of {shape[0]} samples of {shape[1]} tokens."
                )
            role[attention_mask.cpu() == 0] = int(Role.PAD)
        for index, sample in enumerate(samples):
            for span in sample.spans:
                _check_run(role[index], index, span.start, span.length, length)
                where = slice(span.start, span.start + span.length)
                role[index, where] = int(Role.GRID)
                item[index, where] = span.item
                cells = _cells(span)
                frame[index, where], row[index, where], column[index, where] = cells
            for mark in sample.marks:
                _check_run(role[index], index, mark.position, 1, length)
                role[index, mark.position] = int(mark.role)
                item[index, mark.position] = mark.item
        return cls(role, item, frame, row, column, note)

    @classmethod
    def video(cls, *, start: int, frames: int, rows: int, columns: int, length: int) -> Layout:
        """Lay out one unpadded sample that holds one video in one run: the common case.

        Parameters
        ----------
        start
            Position of the first visual token.
        frames, rows, columns
            Size of the grid.
        length
            Tokens of the whole sequence.
        """
        return cls.build([SampleLayout((Span(start, frames, rows, columns),))], length)

    @property
    def batch(self) -> int:
        """Number of samples."""
        return int(self.role.shape[0])

    @property
    def length(self) -> int:
        """Tokens per sample, padding included."""
        return int(self.role.shape[1])

    @property
    def has_grid(self) -> bool:
        """Whether any sample holds a token that can be reduced."""
        return bool((self.role == int(Role.GRID)).any())

    def to(self, device: object) -> Layout:
        """Return the layout with its tensors on ``device``."""
        moved = {name: getattr(self, name).to(device) for name in _TENSORS}
        return Layout(**moved, note=self.note)

    def with_last_kept(self, valid: Tensor) -> Layout:
        """Return the layout with each sample's last token out of reducers' reach.

        The next token is predicted there. Where a prompt ends in a visual token, it is a separator
        from then on: never reduced, and not counted as a grid token.

        Parameters
        ----------
        valid
            ``[batch, tokens]`` bool, false at padding; the last column is never padding.
        """
        role = self.role.clone()
        last = role[:, -1]
        role[:, -1] = last.masked_fill((last > 0) & valid[:, -1], int(Role.SEPARATOR))
        return replace(self, role=role)

    def expand(self, repeats: int) -> Layout:
        """Repeat every sample, as ``generate`` does for beams and returned sequences."""
        repeated = {n: getattr(self, n).repeat_interleave(repeats, dim=0) for n in _TENSORS}
        return Layout(**repeated, note=self.note)


def contiguous_runs(flags: Iterable[bool]) -> list[tuple[int, int]]:
    """Return ``(start, length)`` of every run of true values."""
    runs: list[tuple[int, int]] = []
    start: int | None = None
    position = -1
    for position, flag in enumerate(flags):
        if flag and start is None:
            start = position
        elif not flag and start is not None:
            runs.append((start, position - start))
            start = None
    if start is not None:
        runs.append((start, position + 1 - start))
    return runs


def _cells(span: Span) -> tuple[Tensor, Tensor, Tensor]:
    import torch

    index = torch.arange(span.length)
    frame, cell = index // (span.rows * span.columns), index % (span.rows * span.columns)
    if span.order == "column":
        column, row = cell // span.rows, cell % span.rows
    else:
        row, column = cell // span.columns, cell % span.columns
    return frame + span.first_frame, row + span.first_row, column + span.first_column


def _check_run(role: Tensor, sample: int, start: int, count: int, length: int) -> None:
    if count < 1:
        raise LayoutError(f"sample {sample}: the visual run at position {start} has no token.")
    if start < 0 or start + count > length:
        raise LayoutError(
            f"sample {sample}: the visual run [{start}, {start + count}) leaves the sequence of "
            f"{length} tokens; were the frames counted as the model counts them?"
        )
    taken = role[start : start + count]
    if bool((taken != int(Role.TEXT)).any()):
        raise LayoutError(
            f"sample {sample}: the visual run [{start}, {start + count}) covers padding or another "
            "run."
        )
