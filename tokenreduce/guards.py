"""What is refused before any compute, because its result could not be exact under reduction."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from tokenreduce.cache import ReducedCache
from tokenreduce.compiled import check_not_compiled, dispatches
from tokenreduce.errors import AdapterError, CacheError, UnsupportedError
from tokenreduce.masks import layer_windows


def check_model(model: nn.Module, decoder: nn.Module) -> None:
    """Refuse decoders whose layers do not each keep keys and values of their own for every token.

    Raises
    ------
    AdapterError
        If the decoder has no list of layers.
    UnsupportedError
        For layers that are recurrent, share keys and values or are called in another way, for
        sliding windows under flash attention, for compiled models, and for models in training
        mode.
    """
    config: Any = decoder.config
    if not hasattr(decoder, "layers"):
        raise AdapterError(
            f"the decoder of {type(model).__name__} is a {type(decoder).__name__} without "
            "`layers`: its adapter's decoder() must return the module that holds the decoder "
            "layers."
        )
    name, layers = type(model).__name__, list(decoder.layers)  # type: ignore[arg-type]
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if getattr(config, "attention_chunk_size", None):
        kinds.add("chunked_attention")
    if other := kinds - {"full_attention", "sliding_attention"}:
        raise UnsupportedError(
            f"{name} has {', '.join(sorted(other))} layers: only layers of full and of "
            "sliding-window attention can be reduced; the state of a recurrent layer mixes all "
            "tokens, so dropping one later is not the same as masking it."
        )
    if getattr(config, "num_kv_shared_layers", 0):
        raise UnsupportedError(
            f"{name} shares keys and values between layers: a token dropped in one layer would "
            "still be needed in another."
        )
    if "flash" in str(config._attn_implementation) and any(layer_windows(config, len(layers))):
        raise UnsupportedError(
            f"{name} has sliding-window layers, and flash attention counts their windows in the "
            "tokens that are left instead of original positions: load the model with "
            "attn_implementation='sdpa'."
        )
    check_not_compiled(model, layers)
    for layer in {type(layer): layer for layer in layers}.values():
        _check_layer(layer)
    check_training(model)


_RELIED_ON = ("hidden_states", "attention_mask", "position_embeddings", "past_key_values")
_PER_TOKEN = ("per_layer_input", "shared_kv_states")


def _check_layer(layer: nn.Module) -> None:
    """Refuse a decoder layer that is not called, or does not attend, as sessions rely on."""
    name = type(layer).__name__
    parameters = inspect.signature(layer.forward).parameters
    if missing := [argument for argument in _RELIED_ON if argument not in parameters]:
        raise UnsupportedError(
            f"{name}.forward has no argument {', '.join(missing)}, which reduction relies on "
            f"(it has {', '.join(parameters)}): use a version of transformers that is supported, "
            "see the docs on models."
        )
    if extra := [argument for argument in _PER_TOKEN if argument in parameters]:
        raise UnsupportedError(
            f"{name}.forward takes {', '.join(extra)}, which belong to tokens that reduction "
            "removes: this family is not supported."
        )
    if not any(dispatches(part) for part in layer.children()):
        raise UnsupportedError(
            f"no attention in {name} dispatches through transformers' attention interface, which "
            "reduction relies on for masks and scores: use a version of transformers that is "
            "supported, see the docs on models."
        )


def check_output(layer: nn.Module, args: Any, output: Any) -> None:
    """Refuse a decoder layer that does not return its hidden states alone: a forward hook of it.

    Raises
    ------
    UnsupportedError
        If it returns a tuple, as layers of older versions of transformers do.
    """
    if not isinstance(output, Tensor):
        raise UnsupportedError(
            f"{type(layer).__name__} returned a {type(output).__name__} instead of a tensor: use a "
            "version of transformers that is supported, see the docs on models."
        )


def check_blocks(blocks: Tensor, role: Tensor, implementation: str, adapter: object) -> None:
    """Refuse blocks of tokens that see each other where they do not fit or have no mask.

    Parameters
    ----------
    blocks, role
        ``[batch, tokens]``: what the adapter says, and the roles of the forward's tokens.
    implementation
        Name of the attention implementation.
    adapter
        For the message.

    Raises
    ------
    AdapterError
        If they describe other tokens.
    UnsupportedError
        Under flash attention.
    """
    if blocks.shape != role.shape:
        raise AdapterError(
            f"{type(adapter).__name__}.blocks() returned a tensor of {tuple(blocks.shape)}: it "
            f"describes the forward's tokens, {tuple(role.shape)}."
        )
    if "flash" in implementation:
        raise UnsupportedError(
            "images of this model have tokens that see later ones, which flash attention has no "
            "mask for: load the model with attn_implementation='sdpa'."
        )


def check_training(model: nn.Module) -> None:
    """Refuse models in training mode; raises :class:`UnsupportedError`."""
    if model.training:
        raise UnsupportedError(
            f"{type(model).__name__} is in training mode: token reduction is for inference. Call "
            "model.eval() first."
        )


def check_generate(model: nn.Module, arguments: dict[str, Any]) -> None:
    """Refuse what ``generate`` is asked to do if it cannot be right.

    Parameters
    ----------
    model
        A transformers model.
    arguments
        What its ``generate`` was called with, by name.

    Raises
    ------
    UnsupportedError
        For caches and decoding methods that need the full sequence in every layer.
    """
    check_training(model)
    check_not_compiled(model, ())
    for name, what in _REFUSED_ARGUMENTS.items():
        if arguments.get(name) is not None:
            raise UnsupportedError(f"generate({name}=...) is refused under reduction: {what}.")
    generator: Any = model
    config, _ = generator._prepare_generation_config(
        arguments.get("generation_config"), **_generation_settings(arguments)
    )
    for name, refused, what in _REFUSED_SETTINGS:
        value = getattr(config, name, None)
        if refused(value):
            raise UnsupportedError(
                f"{name}={value!r} is refused under reduction: {what}. Change it in generate(...) "
                "or in the model's generation_config."
            )
    mask = arguments.get("attention_mask")
    if new_cache_allowed(arguments.get("past_key_values")) and isinstance(mask, Tensor):
        _check_padding(mask)


def check_forward(kwargs: dict[str, Any], mask: Any, past: int, count: int) -> None:
    """Refuse a forward whose masks or labels do not fit reduction.

    Parameters
    ----------
    kwargs
        Keyword arguments of the whole model's forward.
    mask
        The attention mask as the caller gave it.
    past, count
        Tokens in the cache, and new ones.

    Raises
    ------
    UnsupportedError
        For labels, masks that are not 2-D, and right padding.
    """
    if kwargs.get("labels") is not None:
        raise UnsupportedError(
            "labels are refused under reduction: dropped tokens have no logits to compare them "
            "with."
        )
    if isinstance(kwargs.get("logits_to_keep"), Tensor):
        raise UnsupportedError(
            "logits_to_keep as a tensor of positions is refused under reduction: rows are not at "
            "their positions any more. Give a number of last rows, or take what "
            "run.logit_positions says."
        )
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise UnsupportedError(
            f"an attention mask of {shape} is refused under reduction: masks are built per layer "
            "from a 2-D mask [batch, tokens]."
        )
    if mask.shape[1] != past + count:
        raise UnsupportedError(
            f"the attention mask covers {mask.shape[1]} tokens, but the cache and the new tokens "
            f"are {past} + {count}: pass the mask of the whole sequence."
        )
    _check_padding(mask)


def _check_padding(mask: Tensor) -> None:
    if mask.dim() == 2 and bool(mask[:, -1].eq(0).any()):
        raise UnsupportedError(
            "right padding in the attention mask is refused under reduction: the last position "
            "must be the last prompt token, so set tokenizer.padding_side = 'left'."
        )


def new_cache_allowed(cache: Any) -> bool:
    """Return whether ``cache`` may be replaced by ours: it is None or an empty dynamic cache.

    Raises
    ------
    CacheError
        If it was made by a session that is closed.
    UnsupportedError
        If it is of another kind, or was filled outside the session.
    """
    if cache is None:
        return True
    if isinstance(cache, ReducedCache):
        if not cache.alive():
            raise CacheError(
                "past_key_values was made in an earlier tokenreduce.reduce(...) block that is "
                "closed: continue inside that block, or start from an empty cache."
            )
        return False
    kinds = (DynamicLayer, DynamicSlidingWindowLayer)
    plain = all(type(layer) in kinds for layer in getattr(cache, "layers", ()))
    if type(cache) is not DynamicCache or not plain or cache.offloading:
        raise UnsupportedError(
            f"a {type(cache).__name__} is refused under reduction: only the dynamic cache lets "
            "layers hold different numbers of tokens. Leave past_key_values and "
            "cache_implementation unset."
        )
    if cache.get_seq_length():
        raise UnsupportedError(
            f"past_key_values already holds {cache.get_seq_length()} tokens from outside this "
            "block, and what they are is not known: run the whole conversation inside the block."
        )
    return True


_REFUSED_ARGUMENTS = {
    "assistant_model": "assisted decoding crops the cache to positions that layers no longer share",
    "custom_generate": "its decoding loop is unknown",
    "labels": "dropped tokens have no logits to compare them with",
}


def _is_set(value: Any) -> bool:
    return value is not None and value is not False


_REFUSED_SETTINGS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("use_cache", lambda v: v is False, "without a cache every step would reduce anew"),
    (
        "cache_implementation",
        lambda v: v not in (None, "dynamic", "dynamic_full"),
        "only the dynamic cache lets layers hold different numbers of tokens",
    ),
    ("prefill_chunk_size", _is_set, "a chunk does not hold the whole video and the question"),
    ("prompt_lookup_num_tokens", _is_set, "its candidates are cropped from the cache again"),
    ("assistant_early_exit", _is_set, "its candidates are cropped from the cache again"),
    ("use_mtp", _is_set, "its candidates are cropped from the cache again"),
    ("penalty_alpha", _is_set, "contrastive search copies and crops the cache"),
    ("dola_layers", _is_set, "it compares layers that hold different tokens"),
)


def _generation_settings(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is not a generation setting: tensors would be copied."""
    skip = ("generation_config", "inputs", "past_key_values", "streamer")
    return {k: v for k, v in kwargs.items() if k not in skip and not isinstance(v, Tensor)}
