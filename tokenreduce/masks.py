"""Attention masks of layers that do not hold every token, built from the positions they do hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tokenreduce.cache import Held
from tokenreduce.errors import AdapterError


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """What the queries of one layer see where the causal rule alone does not say it.

    A query sees the keys up to itself and those of its own block; of these, with a window, only
    keys less than ``window`` original positions back.

    Attributes
    ----------
    window
        Positions that a query looks back over, its own included; None: all of them.
    blocks
        ``[batch, tokens]`` int64, or ``[tokens]`` for one sample, over the forward's tokens: those
        with the same number from 0 on see each other, later ones as well. None: there are none.
    offset
        Original position of the forward's first token.
    earlier
        ``[batch, past]`` int64, or ``[past]``: positions of the keys from before this forward, -1
        at padding.
    """

    window: int | None
    blocks: Tensor | None
    offset: int
    earlier: Tensor

    def visible(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return ``[..., queries, keys]`` bool.

        Parameters
        ----------
        queries, keys
            ``[..., queries]`` and ``[..., keys]`` int64 original positions, -1 at padding, which
            nobody sees.
        """
        query, key = queries[..., :, None], keys[..., None, :]
        seen = key <= query
        if self.blocks is not None:
            own, other = self._block_of(queries)[..., :, None], self._block_of(keys)[..., None, :]
            seen = seen | ((own == other) & (own >= 0))
        if self.window is not None:
            seen = seen & (key > query - self.window)
        return seen & (key >= 0)

    def on(self, columns: Tensor, asked: Tensor) -> Callable[[slice], Tensor]:
        """Return, for a sample, which keys its rows see, as :func:`attention.received` asks.

        Parameters
        ----------
        columns
            ``[left]`` int64: columns of the keys among the forward's tokens, -1 at padding.
        asked
            ``[rows]`` int64: columns of the queries.
        """
        now = torch.where(columns >= 0, columns + self.offset, columns)
        keys = torch.cat([self.earlier.to(now.device), now])
        return lambda part: self.visible(asked[part] + self.offset, keys)

    def of_sample(self, sample: int) -> Sight:
        """Return what one sample's queries see."""
        blocks = None if self.blocks is None else self.blocks[sample]
        return replace(self, blocks=blocks, earlier=self.earlier[sample])

    def _block_of(self, positions: Tensor) -> Tensor:
        assert self.blocks is not None
        column = positions - self.offset
        block = self.blocks.to(positions.device).gather(-1, column.clamp(min=0))
        return block.masked_fill((column < 0) | (positions < 0), -1)


def layer_windows(config: Any, num_layers: int) -> tuple[int | None, ...]:
    """Return, per decoder layer, how many positions its queries look back over; None: all.

    Parameters
    ----------
    config
        The decoder's configuration. Without ``layer_types`` a ``sliding_window`` is that of every
        layer, as transformers reads it.
    num_layers
        Decoder layers.
    """
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * num_layers
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def sequence_mask(mask: Any, forward: dict[str, Any]) -> Any:
    """Return the mask that the caller gave, where the model made others of it for its decoder.

    Parameters
    ----------
    mask
        What the decoder is given: 2-D, 4-D, or one 4-D mask per kind of layer.
    forward
        Arguments of the whole model's forward; empty if the decoder was called by itself.
    """
    made = isinstance(mask, dict) or (isinstance(mask, Tensor) and mask.dim() == 4)
    return forward.get("attention_mask") if made and forward else mask


def require_known_mask(given: Any, sight: Sight, positions: Tensor, count: int) -> None:
    """Check that the model's own mask says what its masks will say here once tokens are gone.

    Looks at no more than :data:`CHECKED_ROWS` queries, spread evenly, so that it costs next to
    nothing.

    Parameters
    ----------
    given
        The mask of a layer that holds every token: ``[batch, 1, queries, keys]`` bool or additive.
        Other forms leave the rule to the kernel, and only then is nothing beside it right.
    sight
        What its queries are taken to see.
    positions
        ``[batch, past + tokens]`` int64, every position so far, -1 at padding.
    count
        Queries.

    Raises
    ------
    AdapterError
        If they differ.
    """
    plain = sight.window is None and sight.blocks is None
    if not isinstance(given, Tensor) and plain:
        return
    keys = positions
    rows = torch.arange(0, count, -(-count // CHECKED_ROWS), device=positions.device)
    queries = positions[:, positions.shape[1] - count :].index_select(1, rows)
    if isinstance(given, Tensor) and given.dim() == 4:
        keys = positions[:, -given.shape[3] :]
        rule = given.to(positions.device)[:, 0].index_select(1, rows)
        told = rule if rule.dtype == torch.bool else rule == 0
    elif isinstance(given, Tensor):
        return
    else:
        told = replace(sight, window=None, blocks=None).visible(queries, keys)
    if bool(((told != sight.visible(queries, keys)) & (queries >= 0)[:, :, None]).any()):
        raise AdapterError(
            "this model's own attention mask is not the causal one with the sliding windows of its "
            "configuration and the blocks of its adapter, so masks cannot be built for it once "
            "tokens are gone: describe what its tokens see in the adapter's blocks()."
        )


CHECKED_ROWS = 64


def layer_mask(
    keys: Held,
    queries: Held,
    implementation: str,
    dtype: torch.dtype,
    sight: Sight | None = None,
) -> Tensor | None:
    """Return the mask of one layer in the form its attention implementation reads.

    Keys are in the order of their positions and the queries are the last of them, so a query sees
    the keys up to its own slot, less the padding.

    Parameters
    ----------
    keys
        What the layer holds, this forward's tokens included.
    queries
        This forward's tokens at this layer.
    implementation
        Name of the attention implementation, wrapped or not.
    dtype
        Type of the hidden states, for additive masks.
    sight
        What queries see, if that is not every key up to themselves.

    Returns
    -------
    Tensor or None
        None where the kernel's own causal rule is right. ``[batch, keys]`` for flash attention,
        ``[batch, 1, queries, keys]`` otherwise: bool for sdpa, additive for eager.
    """
    count, total = queries.positions.shape[1], keys.positions.shape[1]
    eager = "eager" in implementation
    if "flash" in implementation:
        return (keys.positions >= 0) if keys.padded else None
    if sight is None and not keys.padded and (count == 1 or (count == total and not eager)):
        return None
    device = keys.positions.device
    if sight is not None:
        visible = sight.visible(queries.positions, keys.positions)[:, None]
    else:
        slot = torch.arange(total - count, total, device=device)
        visible = (torch.arange(total, device=device) <= slot[:, None])[None, None]
    if keys.padded:
        visible = visible & (keys.positions >= 0)[:, None, None, :]
        # A padding row would see nothing, and softmax over nothing is not a number.
        visible = visible | (queries.positions < 0)[:, None, :, None]
    if not eager:
        return visible
    blocked = torch.finfo(dtype).min
    return torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill(~visible, blocked)
