"""The share of a video's frames whose unreduced prefill costs a wanted share, by arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from statistics import fmean
from typing import NamedTuple

from tokenreduce.cells import Measure
from tokenreduce.cost import DecoderShape, prefill_cost
from tokenreduce.schedule import exact

LEAST = 0.0001
"""A share this small shows one frame of any video."""


class Size(NamedTuple):
    """Tokens of a prompt, and how many of them are the video's."""

    tokens: int
    video: int


def frames_share(
    measure: Measure, target: float, sizes: Sequence[Size], shape: DecoderShape
) -> float:
    """Return the share of the frames that costs ``target`` of the whole, as a mean over prompts.

    A video's tokens are in proportion to its frames, and text stays. Visual tokens and bytes are
    then linear in the share, and FLOPs, with the causal half of attention, are quadratic. Four
    decimals; at least one frame is always left.

    Parameters
    ----------
    measure, target
        What is counted, and the share wanted, in (0, 1].
    sizes
        Of the unreduced prompts.
    shape
        Of the decoder.
    """
    if measure == "img_memory":
        share = target
    elif measure == "kv_bytes":
        share = 1 - (1 - target) / fmean(size.video / size.tokens for size in sizes)
    else:
        share = _flops_share(target, sizes, shape)
    return min(max(round(share, 4), LEAST), 1.0)


def _flops_share(target: float, sizes: Sequence[Size], shape: DecoderShape) -> float:
    one = prefill_cost(shape, [1] * shape.layers)
    per_token = one.matmul_flops - one.head_flops
    pair = one.attention_flops  # one token sees one token
    # The mean over prompts of their FLOPs, as shares of the whole: a + b s + c s * s.
    a = b = c = Fraction(0)
    for tokens, video in sizes:
        text = tokens - video
        half = Fraction(pair, 2)
        full = one.head_flops + per_token * tokens + half * tokens * (tokens + 1)
        part = len(sizes) * full
        a += (one.head_flops + per_token * text + half * text * (text + 1)) / part
        b += (per_token * video + half * video * (2 * text + 1)) / part
        c += half * video * video / part
    short = float(exact(target) - a)
    # The root that stays right where attention, and with it c, is next to nothing.
    return 2 * short / (float(b) + math.sqrt(max(float(b * b) + 4 * float(c) * short, 0.0)))
