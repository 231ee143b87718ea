"""Cost of a prefill from token counts alone: FLOPs, bytes moved, bytes of the key-value cache.

Convention: one multiply-add is 2 FLOPs, and of the attention only the causal half is counted unless
the full square is asked for. Counted are matrix products and attention. Norms, rotary embedding,
softmax, activation functions and the token embedding are not. The vision tower runs before any
reduction and is counted apart.
"""

from __future__ import annotations

from tokenreduce.cost.prefill import Cost, LayerCost, kv_bytes, prefill_cost, scoring_flops
from tokenreduce.cost.shape import DecoderShape, Matrix
from tokenreduce.cost.vision import vision_flops

__all__ = [
    "Cost",
    "DecoderShape",
    "LayerCost",
    "Matrix",
    "kv_bytes",
    "prefill_cost",
    "scoring_flops",
    "vision_flops",
]
