"""Sizes of a decoder, and the weight matrices that they make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from tokenreduce.errors import AdapterError


class Matrix(NamedTuple):
    """Weight matrices of one size in one layer.

    Attributes
    ----------
    inputs, outputs
        Sizes of the product.
    per_token
        How many of them each token goes through.
    stored
        How many there are.
    """

    inputs: int
    outputs: int
    per_token: int = 1
    stored: int = 1


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """Sizes of a decoder-only language model.

    Attributes
    ----------
    layers, hidden, intermediate, heads, key_heads, head_dim, vocabulary
        Number of decoder layers, width of hidden states and of the dense MLP, query and key-value
        heads, width of one head, rows of the language head.
    gated
        Whether an MLP has a gate projection (three matrices instead of two).
    experts, active_experts, expert_intermediate
        Experts of a mixture-of-experts layer, how many of them each token goes through, and the
        width of one; 0 experts: every layer has a dense MLP.
    shared_intermediate
        Width of the expert that every token goes through as well; 0: none.
    dense_layers
        Indices of the layers that have a dense MLP in spite of ``experts``.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_heads: int
    head_dim: int
    vocabulary: int
    gated: bool = True
    experts: int = 0
    active_experts: int = 0
    expert_intermediate: int = 0
    shared_intermediate: int = 0
    dense_layers: tuple[int, ...] = ()

    @classmethod
    def from_config(cls, config: Any) -> DecoderShape:
        """Read the sizes from a transformers text configuration.

        Raises
        ------
        AdapterError
            If a size is not there under its usual name, or keys and values are compressed.
        """
        if getattr(config, "kv_lora_rank", None):
            raise AdapterError(
                f"{type(config).__name__} has kv_lora_rank={config.kv_lora_rank}: the cost of "
                "compressed keys and values is not modelled, so override the adapter's "
                "decoder_shape with the sizes that come nearest."
            )
        heads = _size(config, "num_attention_heads")
        hidden = _size(config, "hidden_size")
        experts = _first(config, *_EXPERTS)
        return cls(
            layers=_size(config, "num_hidden_layers"),
            hidden=hidden,
            intermediate=_size(config, "intermediate_size"),
            heads=heads,
            key_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or hidden // heads,
            vocabulary=_size(config, "vocab_size"),
            gated=_gated(config),
            **(_expert_sizes(config, experts) if experts else {}),
        )

    @property
    def query_width(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Width of all key heads together, which is that of the value heads."""
        return self.key_heads * self.head_dim

    def matrices(self, layer: int) -> tuple[Matrix, ...]:
        """Return the weight matrices of a layer, in the order in which tokens go through them."""
        attention = (
            Matrix(self.hidden, self.query_width),
            Matrix(self.hidden, self.key_width),
            Matrix(self.hidden, self.key_width),
            Matrix(self.query_width, self.hidden),
        )
        if not self.experts or layer in self.dense_layers:
            return attention + self._mlp(self.intermediate)
        router = Matrix(self.hidden, self.experts)
        routed = self._mlp(self.expert_intermediate, self.active_experts, self.experts)
        shared = self._mlp(self.shared_intermediate) if self.shared_intermediate else ()
        return (*attention, router, *routed, *shared)

    def _mlp(self, width: int, per_token: int = 1, stored: int = 1) -> tuple[Matrix, ...]:
        into = Matrix(self.hidden, width, per_token, stored)
        return (into,) * (2 if self.gated else 1) + (Matrix(width, self.hidden, per_token, stored),)


_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_ACTIVE = ("num_experts_per_tok", "moe_topk")
_SHARED = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")


def _size(config: Any, name: str) -> int:
    size = getattr(config, name, None)
    if not isinstance(size, int):
        raise AdapterError(
            f"{type(config).__name__} has {name}={size!r}, which is no size of a decoder: override "
            "the adapter's decoder_shape."
        )
    return size


def _first(config: Any, *names: str) -> int:
    """Return the first of several names that the configuration gives a number; 0: none."""
    return next((size for name in names if (size := getattr(config, name, None))), 0)


def _gated(config: Any) -> bool:
    """Return whether MLPs have a gate projection.

    Configurations do not say so, but most list the names of their layers' matrices for tensor
    parallelism. The others are gated if, and only if, their activation is SiLU.
    """
    names = [
        name
        for name in getattr(config, "base_model_tp_plan", None) or ()
        if ".self_attn" not in name and ("mlp" in name or "moe" in name or "feed_forward" in name)
    ]
    if names:
        return any("gate" in name for name in names)
    return getattr(config, "hidden_act", None) == "silu"


def _expert_sizes(config: Any, experts: int) -> dict[str, Any]:
    width = _first(config, "moe_intermediate_size", "intermediate_size")
    shared = _first(config, *_SHARED) * width
    return {
        "experts": experts,
        "active_experts": _first(config, *_ACTIVE),
        "expert_intermediate": width,
        "shared_intermediate": _first(config, "shared_expert_intermediate_size") or shared,
        "dense_layers": _dense_layers(config),
    }


def _dense_layers(config: Any) -> tuple[int, ...]:
    """Return the layers without experts; families name them in three ways."""
    layers = range(config.num_hidden_layers)
    kinds = getattr(config, "mlp_layer_types", None)
    if kinds:
        return tuple(layer for layer in layers if kinds[layer] == "dense")
    first = _first(config, "first_k_dense_replace")
    named = getattr(config, "mlp_only_layers", None) or ()
    step = _first(config, "decoder_sparse_step") or 1
    return tuple(layer for layer in layers if layer < first or layer in named or (layer + 1) % step)
