"""What becomes of position ids once tokens are gone: kept, renumbered or averaged."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from tokenreduce.apply import Tokens
from tokenreduce.cache import Held
from tokenreduce.errors import ConfigError, UnsupportedError

Policy = Literal["keep", "renumber", "mean"]

Rotary = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""(hidden states, position ids ``[batch, tokens]``, layer) -> (cos, sin) of a decoder."""


def rotary_of(decoder: Any) -> Rotary:
    """Return the rotary embedding of a decoder; some have one per kind of layer."""
    module = getattr(decoder, "rotary_emb", None)

    def rotate(hidden: Tensor, ids: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        if module is None:
            raise UnsupportedError(
                "the decoder has no rotary_emb to make other positions with: use positions='keep'."
            )
        kind = (decoder.config.layer_types[layer],) if typed else ()
        rope: tuple[Tensor, Tensor] = module(hidden, ids, *kind)
        return rope

    typed = module is not None and "layer_type" in inspect.signature(module.forward).parameters
    return rotate


def check_policy(policy: str, config: Any) -> Policy:
    """Return ``policy`` if it is one, and has a meaning for a decoder.

    Raises
    ------
    ConfigError
        If there is no such policy.
    UnsupportedError
        If positions of the decoder are not one number per token.
    """
    if policy not in get_args(Policy):
        known = ", ".join(get_args(Policy))
        raise ConfigError(f"positions '{policy}' is not known: it is one of {known}.")
    rope = getattr(config, "rope_parameters", None) or {}
    if policy != "keep" and "mrope_section" in rope:
        raise UnsupportedError(
            f"positions='{policy}' is refused for this model: its positions are (time, row, "
            "column), which have no single number to renumber or average. Use positions='keep'."
        )
    return policy  # type: ignore[return-value]


def renumbered(keys: Held, count: int) -> Tensor:
    """Return ``[batch, count]`` ids of a layer's last ``count`` keys, numbered from 0 in each row.

    Padding is not counted; what it is given does not matter.
    """
    rank = (keys.positions >= 0).long().cumsum(1) - 1
    if keys.gone is not None:
        rank = rank + keys.gone[:, None]
    return rank.clamp(min=0)[:, -count:]


def averaged(tokens: Tokens, ids: Tensor) -> Tensor:
    """Return ``[batch, left]`` ids: each token's floored mean over the originals it stands for.

    Parameters
    ----------
    tokens
        What is left of a forward's tokens.
    ids
        ``[batch, tokens]`` int64, the position ids of the forward's input.
    """
    alive = tokens.owner >= 0
    sums = torch.zeros_like(ids).scatter_add_(1, tokens.owner.clamp(min=0), ids * alive)
    index = tokens.index.clamp(min=0)
    return sums.gather(1, index) // tokens.size.gather(1, index).clamp(min=1)
