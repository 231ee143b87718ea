"""Attention as reducers ask for it in a prefill: of layers that have run, and of the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokenreduce.attention import over_heads, received
from tokenreduce.masks import Sight
from tokenreduce.view import Heads, Rows

if TYPE_CHECKING:
    from tokenreduce.scheduler import Prefill


def received_at(
    prefill: Prefill,
    layer: int,
    sample: int,
    rows: Rows | tuple[int, ...],
    heads: Heads = "each",
) -> Tensor:
    """Return ``[heads, tokens]`` or ``[tokens]`` float32: weight per token of ``layer``."""
    key = (layer, sample, rows, heads)
    if key not in prefill.weights:
        if heads == "each":
            weight = _computed(prefill, layer, sample, rows)
        else:
            weight = over_heads(received_at(prefill, layer, sample, rows), heads)
        prefill.weights[key] = weight
    return prefill.weights[key]


def _computed(prefill: Prefill, layer: int, sample: int, rows: Rows | tuple[int, ...]) -> Tensor:
    capture = prefill.probe.of(layer, prefill.layers[layer])
    if rows == "all":
        assert capture.everything is not None
        return capture.everything[sample]
    index = prefill.seen[layer].index[sample].to(capture.key.device)
    query = capture.rows[sample]
    count = query.shape[1]
    if rows == "text":
        chosen = torch.arange(count)
    else:
        chosen = torch.tensor([count - 1] if rows == "last" else sorted(rows))
        query = query.index_select(1, chosen.to(query.device))
    asked = prefill.text_columns(sample)[chosen].to(index.device)
    earlier = capture.earlier[sample].to(index.device)
    sight = capture.sight and capture.sight.of_sample(sample)
    # Text rows are the last of the tokens: padding aside, their place says what they see.
    known = sight is None and not capture.padded
    seen = capture.key.shape[2] - count + 1 + chosen if known else None
    return _weights(query, capture.key[sample], index, asked, capture.scaling, earlier, sight, seen)


def peeked_at(prefill: Prefill, layer: int, sample: int, hidden: Tensor, rows: Any) -> Tensor:
    """Return ``[heads, tokens]``: weight that ``layer`` would give, were it to run next."""
    index = prefill.tokens.index[sample].to(hidden.device)
    alive = (index >= 0).nonzero().squeeze(1)
    cos, sin = (
        part.expand(hidden.shape[0], -1, -1).to(hidden.device)[sample : sample + 1, alive]
        for part in prefill.surroundings.rope_at(layer, hidden)
    )
    query, key, scaling = prefill.probe.peek(
        prefill.layers[layer], hidden[sample : sample + 1, alive], (cos, sin)
    )
    keys, held = key[0], prefill.surroundings.earlier_keys(layer)
    if held is not None:
        keys = torch.cat([held[sample].to(keys.device), keys], dim=1)
    columns = index[alive]
    asked = columns if rows == "all" else prefill.text_columns(sample).to(columns.device)
    if rows == "last":
        asked = asked[-1:]
    elif rows not in ("text", "all"):
        asked = asked[torch.tensor(rows, device=asked.device)]
    where = torch.searchsorted(columns, asked)  # ascending: padding has been left out
    earlier = prefill.surroundings.earlier(layer)[sample].to(hidden.device)
    asking = query[0].index_select(1, where)
    sight = prefill.surroundings.sight(layer)
    sight = sight and sight.of_sample(sample)
    weights = _weights(asking, keys, columns, asked, scaling, earlier, sight)
    full = torch.zeros(weights.shape[0], index.numel(), device=weights.device)
    full[:, alive] = weights
    return full


def _weights(
    query: Tensor,
    key: Tensor,
    index: Tensor,
    asked: Tensor,
    scaling: float,
    earlier: Tensor,
    sight: Sight | None,
    seen: Tensor | None = None,
) -> Tensor:
    """Score rows ``asked`` against all keys: earlier turns are seen whole, padding never.

    Where nothing is padded ``seen`` ``[rows]``, on the CPU, may say how many keys each row sees.
    """
    if seen is not None:
        return received(query, key, None, scaling, seen)[:, earlier.numel() :]
    alive = index >= 0

    def visible(part: slice) -> Tensor:
        now = alive & (index <= asked[part, None])
        return torch.cat([earlier.expand(now.shape[0], -1), now], dim=1)

    rule = visible if sight is None else sight.on(index, asked)
    return received(query, key, rule, scaling)[:, earlier.numel() :]
