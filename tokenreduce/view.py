"""What a reducer sees of one sample between two decoder layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Rows = Literal["text", "last", "all"]
Heads = Literal["mean", "sum", "each"]


@dataclass(frozen=True, slots=True)
class PastEvent:
    """One earlier reduction by the same reducer in the same prefill.

    Attributes
    ----------
    layer
        Index of the layer after which it acted.
    before, after
        Visual tokens of the sample before and after it.
    note
        The plan's note.
    """

    layer: int
    before: int
    after: int
    note: str


class View(ABC):
    """One sample after a decoder layer: its surviving visual tokens and their attention.

    All per-token tensors run over the ``n`` surviving *grid* tokens of the sample, in chronological
    order; text, newline, CLS and separator tokens are never in them.

    Attributes
    ----------
    layer
        0-based index of the layer that has just run; -1: before the first layer, on the embeddings,
        where there is no attention yet.
    num_layers
        Decoder layers of the model.
    index
        ``[n]`` int64, original sequence position of each token.
    item, frame, row, column
        ``[n]`` int64, which image or video a token belongs to, and its grid cell there. A merged
        token has the cell of its first member.
    size
        ``[n]`` int64, how many original tokens each one stands for.
    total
        Grid tokens that the sample had before any reduction.
    layers_since_reduction
        Layers run since this reducer last removed something from this sample; since the start of
        the network if it has not.
    events
        This reducer's own earlier reductions in this prefill.
    """

    layer: int
    num_layers: int
    index: Tensor
    item: Tensor
    frame: Tensor
    row: Tensor
    column: Tensor
    size: Tensor
    total: int
    layers_since_reduction: int
    events: tuple[PastEvent, ...]

    def __len__(self) -> int:
        """Return the number of surviving visual tokens."""
        return int(self.index.numel())

    @property
    def cell(self) -> Tensor:
        """``[n]`` int64: one number for each (item, row, column), whatever the frame."""
        import torch

        place = torch.stack([self.item, self.row, self.column], dim=1)
        numbers: Tensor = torch.unique(place, dim=0, return_inverse=True)[1]
        return numbers

    @property
    def earlier(self) -> Tensor:
        """``[n]`` int64: the last surviving token of the same cell in an earlier frame.

        An index into the view's tokens; -1 for the first token of a cell.
        """
        import torch

        cell = self.cell
        order = cell.argsort(stable=True)  # cell by cell, in chronological order
        again = cell[order[:-1]] == cell[order[1:]]
        earlier = torch.full_like(cell, -1)
        earlier[order[1:][again]] = order[:-1][again]
        return earlier

    @abstractmethod
    def attention(
        self,
        rows: Rows | Sequence[int] = "text",
        back: int = 0,
        heads: Heads = "mean",
        layer: Literal["this", "next"] = "this",
    ) -> Tensor:
        """Attention received by each surviving visual token, summed over query rows.

        Parameters
        ----------
        rows
            Query rows: ``text`` = text tokens after the sample's last visual token (the last token,
            if none follows), ``last`` = the last token, ``all`` = every token, or indices into the
            ``text`` rows.
        back
            0 = the layer that has just run, 1 and 2 = the layers before it, over the tokens that
            survive now.
        heads
            Mean or sum over attention heads, or one row for each.
        layer
            ``next`` asks the next layer's own norm and projections instead of what was computed.

        Returns
        -------
        Tensor
            ``[n]`` float32, or ``[heads, n]`` for ``heads="each"``.

        Raises
        ------
        ReducerError
            If the reducer did not declare the need, or the layer does not exist.
        """

    @property
    @abstractmethod
    def keys(self) -> Tensor:
        """``[n, key_heads, head_dim]``: keys of the layer that has just run, rotary applied."""

    @property
    @abstractmethod
    def hidden(self) -> Tensor:
        """``[n, dim]``: hidden states of the visual tokens."""

    @property
    @abstractmethod
    def text_hidden(self) -> Tensor:
        """``[rows, dim]``: hidden states of the text rows that ``attention("text")`` asks."""

    @property
    @abstractmethod
    def text_embeddings(self) -> Tensor:
        """``[rows, dim]``: input embeddings of the same text rows."""

    @property
    @abstractmethod
    def visual_embeddings(self) -> Tensor:
        """``[total, dim]``: input embeddings of all the sample's visual tokens, in order.

        Those that are gone or merged by now as well: what is chosen from them is the same after
        every layer. Those that are left, as they are now, are ``hidden``.
        """

    @property
    @abstractmethod
    def generator(self) -> torch.Generator:
        """A fresh CPU generator seeded from (run's seed, layer, the sample's token ids)."""
