"""Put the images and videos of a batch on their placeholder tokens, one after another."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tokenreduce.errors import AdapterError
from tokenreduce.layout import Layout, Mark, Role, SampleLayout, Span

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Grid:
    """Grid tokens of one item that follow one another; see :class:`tokenreduce.layout.Span`."""

    frames: int
    rows: int
    columns: int
    first_frame: int = 0
    first_row: int = 0
    first_column: int = 0
    order: Literal["row", "column"] = "row"

    def at(self, start: int, item: int) -> Span:
        """Return the run that begins at sequence position ``start``."""
        return Span(
            start,
            self.frames,
            self.rows,
            self.columns,
            item,
            self.first_frame,
            self.first_row,
            self.first_column,
            self.order,
        )


Part = Grid | Role
"""Grid tokens, or one placeholder that has no cell: its role."""

Item = Sequence[Part]
"""One image or video: its parts in token order. Text may stand between two parts."""


def place(
    ids: Tensor,
    items: Mapping[int, Iterable[Item]],
    attention_mask: Tensor | None = None,
    *,
    separators: Collection[int] = (),
    note: str = "",
) -> Layout:
    """Lay out a batch whose placeholders have been expanded to one per visual token.

    Parameters
    ----------
    ids
        ``[batch, tokens]`` token ids.
    items
        By placeholder id, the images or videos that it stands for, in the order of the batch.
        What is left over belongs to another turn and is not looked at.
    attention_mask
        ``[batch, tokens]``, 0 at padding; None if nothing is padded.
    separators
        Token ids that are part of an item where they directly follow its tokens.
    note
        For the layout.

    Raises
    ------
    AdapterError
        If an item's placeholders are not there, or there are more placeholders than items.
    """
    sources = {token: iter(found) for token, found in items.items()}
    rows = enumerate(ids.tolist())
    samples = [_Row(row, sample, frozenset(separators)).walk(sources) for sample, row in rows]
    return Layout.build(samples, ids.shape[1], attention_mask, note=note)


class _Row:
    """One sample on its way through :func:`place`."""

    def __init__(self, ids: list[int], sample: int, separators: frozenset[int]) -> None:
        self.ids, self.sample, self.separators = ids, sample, separators
        self.position = self.item = 0
        self.spans: list[Span] = []
        self.marks: list[Mark] = []

    def walk(self, sources: Mapping[int, Iterator[Item]]) -> SampleLayout:
        while self.position < len(self.ids):
            token = self.ids[self.position]
            if token in sources:
                self._take(token, next(sources[token], None))
                self.item += 1
            else:
                self.position += 1
        return SampleLayout(tuple(self.spans), tuple(self.marks))

    def _take(self, token: int, item: Item | None) -> None:
        if item is None:
            raise AdapterError(
                f"sample {self.sample}: there is a placeholder (token id {token}) at position "
                f"{self.position}, but the inputs describe fewer images or videos: pass all that "
                "the processor returned."
            )
        for number, part in enumerate(item):
            if number:
                self._skip_text(token)
            span = part.at(self.position, self.item) if isinstance(part, Grid) else None
            self._require(token, span.length if span else 1, number, item)
            if span:
                self.spans.append(span)
            else:
                assert isinstance(part, Role)
                self.marks.append(Mark(self.position, part, self.item))
            self.position += span.length if span else 1
            self._take_separators()

    def _skip_text(self, token: int) -> None:
        while self.position < len(self.ids) and self.ids[self.position] != token:
            self.position += 1

    def _take_separators(self) -> None:
        while self.position < len(self.ids) and self.ids[self.position] in self.separators:
            self.marks.append(Mark(self.position, Role.SEPARATOR, self.item))
            self.position += 1

    def _require(self, token: int, length: int, number: int, item: Item) -> None:
        found = self.ids[self.position : self.position + length]
        if length < 1 or found != [token] * length:
            here = next((n for n, other in enumerate(found) if other != token), len(found))
            raise AdapterError(
                f"sample {self.sample}: part {number + 1} of {len(item)} of its image or video "
                f"{self.item} is {length} placeholders (token id {token}) from position "
                f"{self.position} on, but there are {here}: were text and pixels prepared "
                "together, with this model's own processor?"
            )
