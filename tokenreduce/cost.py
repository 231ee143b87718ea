"""Cost of a prefill from token counts alone: multiply-adds, and bytes of the key-value cache.

Convention: one multiply-add is 2 FLOPs; of the attention scores only the causal half is counted;
the vision tower is left out, for it runs before any reduction; the language head is counted for
one position, the one that makes the first token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """Sizes of a decoder-only language model.

    Attributes
    ----------
    layers, hidden, intermediate, heads, key_heads, head_dim, vocabulary
        Number of decoder layers, width of hidden states and of the MLP, query and key-value heads,
        width of one head, rows of the language head.
    gated
        Whether the MLP has a gate projection (three matrices instead of two).
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_heads: int
    head_dim: int
    vocabulary: int
    gated: bool = True

    @classmethod
    def from_config(cls, config: Any) -> DecoderShape:
        """Read the sizes from a transformers text configuration."""
        heads = config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            heads=heads,
            key_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            vocabulary=config.vocab_size,
        )


def layer_flops(shape: DecoderShape, tokens: int, past: int = 0) -> int:
    """Return the FLOPs of one layer over ``tokens`` new tokens that also see ``past`` keys."""
    query_width = shape.heads * shape.head_dim
    key_width = shape.key_heads * shape.head_dim
    projections = shape.hidden * (2 * query_width + 2 * key_width)
    mlp = (3 if shape.gated else 2) * shape.hidden * shape.intermediate
    # Scores and the weighted sum of values: two products over the causal half of the square.
    seen = tokens * (tokens + 1) // 2 + tokens * past
    return 2 * tokens * (projections + mlp) + 2 * 2 * query_width * seen


def prefill_flops(
    shape: DecoderShape, tokens_per_layer: Sequence[int], past_per_layer: Sequence[int] = ()
) -> int:
    """Return the FLOPs of a prefill in which layer ``k`` runs over ``tokens_per_layer[k]`` tokens.

    Parameters
    ----------
    shape
        Sizes of the decoder.
    tokens_per_layer
        New tokens, text included, one number per layer.
    past_per_layer
        Keys that each layer holds from earlier turns; empty: none.
    """
    past = past_per_layer or [0] * len(tokens_per_layer)
    layers = zip(tokens_per_layer, past, strict=True)
    head = 2 * shape.hidden * shape.vocabulary
    return sum(layer_flops(shape, tokens, keys) for tokens, keys in layers) + head


def kv_bytes(shape: DecoderShape, tokens_per_layer: Sequence[int], element_bytes: int) -> int:
    """Return the bytes of keys and values that the prefill leaves in the cache."""
    return 2 * shape.key_heads * shape.head_dim * element_bytes * sum(tokens_per_layer)
