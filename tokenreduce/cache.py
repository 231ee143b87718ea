"""A key-value cache whose layers hold different tokens, but which counts like the full one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache

from tokenreduce.errors import CacheError


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Original positions of the keys that one or more layers hold.

    Attributes
    ----------
    positions
        ``[batch, keys]`` int64, ascending in each row; -1 where a row is padded.
    padded
        Whether any entry is padding; known on the host, so that decode needs no synchronisation.
    gone
        ``[batch]`` int64: how many keys before these a layer with a sliding window has let go of;
        None: it has not.
    """

    positions: Tensor
    padded: bool
    gone: Tensor | None = None

    @classmethod
    def of(cls, positions: Tensor) -> Held:
        """Wrap positions, looking for padding once."""
        return cls(positions, bool((positions < 0).any()))

    def joined(self, new: Held) -> Held:
        """Return these positions followed by ``new`` ones."""
        device = self.positions.device
        joined = torch.cat([self.positions, new.positions.to(device)], dim=1)
        return Held(joined, self.padded or new.padded, self.gone)

    def last(self, count: int) -> Held:
        """Return the last ``count`` of these positions."""
        cut = self.positions.shape[1] - count
        if not cut:
            return self
        gone = (self.positions[:, :cut] >= 0).sum(dim=1)
        if self.gone is not None:
            gone = gone + self.gone
        return Held(self.positions[:, cut:], self.padded, gone)

    def rows(self, indices: Tensor) -> Held:
        """Return the positions of some samples."""
        chosen = indices.to(self.positions.device)
        gone = None if self.gone is None else self.gone.index_select(0, chosen)
        return Held(self.positions.index_select(0, chosen), self.padded, gone)


class ReducedCache(DynamicCache):
    """A dynamic cache under reduction: each layer has its own length, the cache one logical length.

    ``generate`` derives positions and masks from the cache's length, so the length reported is that
    of the sequence as the caller knows it; what each layer really holds is in :attr:`held`.

    Attributes
    ----------
    alive
        Tells whether the session that made the cache is still open.
    length
        Logical length: all tokens seen, dropped ones included.
    held
        Per layer what it holds; None: every position, and the model's own mask is right for it.
    """

    alive: Callable[[], bool]
    length: int
    held: list[Held | None]

    @classmethod
    def adopt(cls, cache: DynamicCache, layers: int, alive: Callable[[], bool]) -> ReducedCache:
        """Make an empty dynamic cache one of these, in place: its owner goes on holding it.

        Parameters
        ----------
        cache
            Empty.
        layers
            Decoder layers.
        alive
            Tells whether the session is still open.
        """
        cache.__class__ = cls
        adopted = cast("ReducedCache", cache)
        adopted.alive, adopted.length, adopted.held = alive, 0, [None] * layers
        return adopted

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values to one layer.

        Raises
        ------
        CacheError
            If the session that made the cache has been closed.
        """
        if not self.alive():
            raise CacheError(
                "this cache was made under tokenreduce.reduce(...) and its layers hold different "
                "tokens: use it inside the same `with` block, or start from an empty cache."
            )
        updated: tuple[Tensor, Tensor] = super().update(*args, **kwargs)
        return updated

    def commit(self, length: int, held: list[Held | None]) -> None:
        """Record a forward that has run: the new logical length and what each layer now holds.

        Layers with a sliding window keep their last ``window - 1`` keys. These are enough: what is
        left of the last ``window - 1`` positions is among them.
        """
        self.length = length
        cut: dict[tuple[int, int], Held] = {}
        for layer, keys in enumerate(held):
            if keys is not None and self.window(layer) is not None:
                count = self.layers[layer].keys.shape[2]
                if (id(keys), count) not in cut:
                    cut[id(keys), count] = keys.last(count)
                held[layer] = cut[id(keys), count]
        self.held = held

    def window(self, layer: int) -> int | None:
        """Return the window that a layer trims its keys to; None if it keeps all of them."""
        window: int | None = getattr(self.layers[layer], "sliding_window", None)
        return window

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the logical length: all tokens seen, dropped ones included."""
        return self.length

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Return the position of the next query."""
        return self.length

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Return size and offset of the model's own mask; layers that miss tokens do not use it."""
        window = self.window(layer_idx) if layer_idx < len(self.layers) else None
        offset = 0 if window is None else max(self.length - window + 1, 0)
        return self.length - offset + query_length, offset

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder the samples, as beam search asks."""
        super().reorder_cache(beam_idx)
        self._select(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only some samples."""
        super().batch_select_indices(indices)
        self._select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sample."""
        super().batch_repeat_interleave(repeats)
        first = next((held for held in self.held if held is not None), None)
        if first is not None:
            rows = torch.arange(first.positions.shape[0], device=first.positions.device)
            self._select(rows.repeat_interleave(repeats))

    def crop(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: a crop in original positions has no single meaning here."""
        raise CacheError(
            "a cache made under tokenreduce.reduce(...) cannot be cropped: its layers hold "
            "different tokens. Generate again from the prompt instead."
        )

    def _select(self, indices: Tensor) -> None:
        done: dict[int, Held] = {}
        for layer, held in enumerate(self.held):
            if held is None:
                continue
            if id(held) not in done:
                done[id(held)] = held.rows(indices)
            self.held[layer] = done[id(held)]
