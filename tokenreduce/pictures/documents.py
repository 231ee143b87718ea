"""What picture records hold: what became of each patch, and where the question looked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from tokenreduce.errors import ConfigError
from tokenreduce.trace import Trace

Cell = tuple[int, int, int, int]
"""(item, frame, row, column) of a visual token, as in a trace."""

Patch = tuple[int, int, int]
"""(frame, row, column) of a visual token; frames are numbered through all items."""

DROPPED = -1


class _Document(BaseModel):
    """A value that goes to JSON and back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> str:
        """Return the document as JSON."""
        return self.model_dump_json()


class Change(_Document):
    """What one reduction did to the patches that it touched.

    Attributes
    ----------
    layer
        Index of the layer after which it happened; -1: before the first.
    reducer, note
        Name of the reducer, and its word on why.
    after
        Visual tokens after it.
    patches
        Numbers of the patches that belong to another token than before.
    owners
        For each of them the patch whose token it is part of now; -1: none, it was dropped.
    """

    layer: int
    reducer: str
    note: str
    after: int
    patches: tuple[int, ...]
    owners: tuple[int, ...]


class Picture(_Document):
    """One frame as it is shown.

    Attributes
    ----------
    image
        A ``data:`` URL of a JPEG.
    seconds
        Time of the frame in the clip.
    rows, columns
        Size of its grid of patches.
    """

    image: str
    seconds: float
    rows: int
    columns: int


class Overlay(_Document):
    """Frames of one question's video, and what a cell's reducers did to each patch.

    Attributes
    ----------
    question, answer, prediction
        What was asked, what is right, and what the model said.
    num_layers
        Decoder layers.
    frames
        One for each frame of the grid.
    patches
        Visual tokens before any reduction, in order; their places are their numbers.
    changes
        Reductions in the order they happened.
    tokens_per_layer
        Visual tokens in the cache of each decoder layer.
    """

    question: str
    answer: str
    prediction: str
    num_layers: int
    frames: tuple[Picture, ...]
    patches: tuple[Patch, ...]
    changes: tuple[Change, ...]
    tokens_per_layer: tuple[int, ...]


class Levels(_Document):
    """Attention that visual tokens receive from the question, layer by layer.

    Attributes
    ----------
    num_layers
        Decoder layers.
    layers
        Index of each layer that was recorded, ascending.
    patches
        Visual tokens before any reduction, in order.
    attention
        For each of those layers and each patch, the share of a text token's attention that goes to
        it, mean over heads and over the text tokens after the video; None where the patch has no
        token of its own in that layer.
    """

    num_layers: int
    layers: tuple[int, ...]
    patches: tuple[Patch, ...]
    attention: tuple[tuple[float | None, ...], ...]


_Kind = TypeVar("_Kind", Overlay, Levels)


def read_document(kind: type[_Kind], text: str, where: str) -> _Kind:
    """Read a document back.

    Parameters
    ----------
    kind
        What it should be.
    text
        The JSON.
    where
        Where it stands, for the error.

    Raises
    ------
    ConfigError
        If it is none: the results were made by another version, or changed by hand.
    """
    try:
        return kind.model_validate_json(text)
    except ValueError as error:
        raise ConfigError(
            f"{where}: this is no {kind.__name__} that can be drawn ({str(error).splitlines()[0]}):"
            " make the pictures again with this version."
        ) from error


def numbered(cells: Sequence[Cell]) -> tuple[tuple[Patch, ...], list[tuple[int, int]]]:
    """Return patches whose frames are numbered through all items.

    Parameters
    ----------
    cells
        Of every visual token, in order.

    Returns
    -------
    patches, panes
        The cells with numbered frames, and the (item, frame) behind each number.
    """
    panes = sorted({(item, frame) for item, frame, _, _ in cells})
    number = {pane: index for index, pane in enumerate(panes)}
    return tuple((number[i, f], row, column) for i, f, row, column in cells), panes


def changes_of(trace: Trace, cells: Sequence[Cell], sample: int = 0) -> tuple[Change, ...]:
    """Return what each reduction of a trace did to the patches.

    Parameters
    ----------
    trace
        Of the prefill.
    cells
        Of every visual token of the sample, in order.
    sample
        Row of the batch.
    """
    number = {cell: index for index, cell in enumerate(cells)}
    owner = list(range(len(cells)))
    changes = []
    for event in trace.events:
        if event.sample != sample:
            continue
        now = [DROPPED] * len(cells)
        for cell in event.kept:
            now[number[cell]] = number[cell]
        for first, *others in event.merged:
            for cell in others:
                now[number[cell]] = number[first]
        touched = [patch for patch in range(len(cells)) if now[patch] != owner[patch]]
        owners = tuple(now[patch] for patch in touched)
        changes.append(
            Change(
                layer=event.layer,
                reducer=event.reducer,
                note=event.note,
                after=event.after,
                patches=tuple(touched),
                owners=owners,
            )
        )
        owner = now
    return tuple(changes)
