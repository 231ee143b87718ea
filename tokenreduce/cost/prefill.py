"""FLOPs and bytes of a prefill, layer by layer, from the tokens that each layer runs over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tokenreduce.cost.shape import DecoderShape


class LayerCost(NamedTuple):
    """FLOPs of one layer: of its products with weights, and of its attention."""

    matmul: int
    attention: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What one prefill costs.

    Attributes
    ----------
    layers
        FLOPs of each decoder layer.
    head_flops
        FLOPs of the language head.
    bytes
        Bytes read and written: see :func:`prefill_cost`.
    """

    layers: tuple[LayerCost, ...]
    head_flops: int
    bytes: int

    @property
    def matmul_flops(self) -> int:
        """FLOPs of all products with weights, the language head's included."""
        return sum(layer.matmul for layer in self.layers) + self.head_flops

    @property
    def attention_flops(self) -> int:
        """FLOPs of attention: queries times keys, and weights times values."""
        return sum(layer.attention for layer in self.layers)

    @property
    def total(self) -> int:
        """All FLOPs."""
        return self.matmul_flops + self.attention_flops


def prefill_cost(
    shape: DecoderShape,
    tokens_per_layer: Sequence[int],
    past_per_layer: Sequence[int] = (),
    *,
    causal: bool = True,
    logits: int = 1,
    element_bytes: int = 2,
) -> Cost:
    """Return the cost of a prefill in which layer ``k`` runs over ``tokens_per_layer[k]`` tokens.

    Bytes follow one rule: each product reads its two factors once and writes its result once, and
    attention reads queries, keys and values once and writes its result once. Of the experts, those
    count that a token can have reached. What caches and fused kernels spare is not modelled.

    Parameters
    ----------
    shape
        Sizes of the decoder.
    tokens_per_layer
        New tokens of one sample, text included, one number per layer.
    past_per_layer
        Keys that each layer holds from earlier turns; empty: none.
    causal
        Whether a token is counted as seeing itself and what is before it only. False counts the
        full square of new tokens, which is what an implementation computes that masks scores
        afterwards, such as transformers' ``eager``.
    logits
        Rows that the language head runs over.
    element_bytes
        Bytes of one element of weights and activations.

    Raises
    ------
    ValueError
        If there is not one number per layer.
    """
    past = past_per_layer or [0] * shape.layers
    for name, given in (("tokens_per_layer", tokens_per_layer), ("past_per_layer", past)):
        if len(given) != shape.layers:
            raise ValueError(
                f"{name} has {len(given)} numbers for {shape.layers} layers: give one per layer."
            )
    layers, elements = [], _product_elements(shape.hidden, shape.vocabulary, logits)
    for layer, (tokens, keys) in enumerate(zip(tokens_per_layer, past, strict=True)):
        layers.append(_layer_cost(shape, layer, tokens, keys, causal))
        elements += _layer_elements(shape, layer, tokens, keys)
    head = 2 * shape.hidden * shape.vocabulary * logits
    return Cost(tuple(layers), head, elements * element_bytes)


def scoring_flops(shape: DecoderShape, queries: int, keys: int) -> int:
    """Return the FLOPs of scoring ``queries`` rows against ``keys`` columns, over all heads, once.

    A reducer pays this at each layer whose attention it asks for. It needs weights, not values, so
    there is one product where attention has two; columns that a row cannot see are computed too.
    """
    return 2 * shape.query_width * queries * keys


def kv_bytes(shape: DecoderShape, tokens_per_layer: Sequence[int], element_bytes: int) -> int:
    """Return the bytes of keys and values that the prefill leaves in the cache."""
    return 2 * shape.key_width * element_bytes * sum(tokens_per_layer)


def _layer_cost(shape: DecoderShape, layer: int, tokens: int, past: int, causal: bool) -> LayerCost:
    weights = sum(m.inputs * m.outputs * m.per_token for m in shape.matrices(layer))
    square = tokens * (tokens + 1) // 2 if causal else tokens * tokens
    # Scores and the weighted sum of values: two products over the pairs that are seen.
    return LayerCost(2 * tokens * weights, 2 * 2 * shape.query_width * (square + tokens * past))


def _layer_elements(shape: DecoderShape, layer: int, tokens: int, past: int) -> int:
    products = sum(
        _product_elements(m.inputs, m.outputs, tokens * m.per_token, m.stored)
        for m in shape.matrices(layer)
    )
    attention = 2 * shape.query_width * tokens + 2 * shape.key_width * (past + tokens)
    return products + attention


def _product_elements(inputs: int, outputs: int, rows: int, stored: int = 1) -> int:
    """Return how many numbers a product touches; ``rows`` spread over ``stored`` matrices."""
    return inputs * outputs * min(stored, rows) + rows * (inputs + outputs)
