"""Attention masks of layers that do not hold every token, built from the positions they do hold."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenreduce.cache import Held


def layer_mask(keys: Held, queries: Held, implementation: str, dtype: torch.dtype) -> Tensor | None:
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
    if not keys.padded and (count == 1 or (count == total and not eager)):
        return None
    device = keys.positions.device
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
