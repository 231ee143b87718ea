"""What is refused when a session attaches: families that cannot be right, and changed layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import tokenreduce
from tokenreduce.errors import UnsupportedError
from tokenreduce.session import Session
from tokenreduce.testing.tiny import single, tiny_onevision
from tokenreduce_model_adapters.llava_onevision import LlavaOnevision
from tokenreduce_plugins.fastv import FastV
from tokenreduce_plugins.pyramid_drop import PyramidDrop

SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


def qwen3_5() -> Any:
    """Three linear-attention layers to one of full attention."""
    from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

    linear = {"linear_num_key_heads": 2, "linear_num_value_heads": 2}
    linear |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
    return Qwen3_5ForCausalLM(Qwen3_5TextConfig(**SIZES, **linear, num_hidden_layers=4))


def llama4() -> Any:
    """Attention in chunks of positions."""
    from transformers import Llama4ForCausalLM, Llama4TextConfig

    experts = {"num_local_experts": 2, "intermediate_size_mlp": 16, "attention_chunk_size": 8}
    return Llama4ForCausalLM(Llama4TextConfig(**SIZES, **experts, num_hidden_layers=4))


def gemma3n() -> Any:
    """The last two of four layers read the keys and values of earlier ones."""
    from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

    config = Gemma3nTextConfig(
        **SIZES,
        num_hidden_layers=4,
        num_kv_shared_layers=2,
        layer_types=["sliding_attention", "full_attention"] * 2,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=32,
        laurel_rank=4,
        activation_sparsity_pattern=[0.0] * 4,
    )
    return Gemma3nForCausalLM(config)


def gemma4(shared: int = 2) -> Any:
    """As Gemma 3n; without sharing there are still inputs of each layer's own."""
    from transformers import Gemma4ForCausalLM, Gemma4TextConfig

    config = Gemma4TextConfig(
        **SIZES,
        num_hidden_layers=4,
        num_kv_shared_layers=shared,
        layer_types=["sliding_attention", "full_attention"] * 2,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=32,
    )
    return Gemma4ForCausalLM(config)


class OfText(LlavaOnevision):
    """Finds the decoder of a model without vision."""

    def decoder(self, model: Any) -> Any:
        return model.model


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (qwen3_5, "has linear_attention layers: .*mixes all tokens"),
        (llama4, "has chunked_attention layers: only layers of full"),
        (gemma3n, "shares keys and values between layers"),
        (gemma4, "shares keys and values between layers"),
        (lambda: gemma4(shared=0), "takes per_layer_input, shared_kv_states"),
    ],
    ids=["qwen3.5", "llama4", "gemma3n", "gemma4", "gemma4-unshared"],
)
def test_families_that_cannot_be_right_are_refused(make, word):
    with pytest.raises(UnsupportedError, match=word):
        Session(make().eval(), OfText(), [FastV()])


# ------------------------------------------------------------------ changed layers


def layer_class() -> Any:
    return type(tiny_onevision().get_decoder().layers[0])


def attach(model: Any) -> Any:
    return tokenreduce.reduce(model, FastV())


@pytest.mark.parametrize("name", ["attention_mask", "position_embeddings", "past_key_values"])
def test_renamed_arguments_are_refused(name, monkeypatch):
    names = {"attention_mask", "position_embeddings", "past_key_values"} - {name}
    arguments = ", ".join(f"{left}=None" for left in sorted(names))
    space: dict[str, Any] = {}
    exec(f"def forward(self, hidden_states, new_name=None, {arguments}, **kwargs): ...", space)
    monkeypatch.setattr(layer_class(), "forward", space["forward"])
    with (
        pytest.raises(UnsupportedError, match=rf"no argument {name}, .*it has .*new_name"),
        attach(tiny_onevision()),
    ):
        pass


def test_layers_that_return_tuples_are_refused(monkeypatch):
    layer = layer_class()
    own = layer.forward

    def forward(self, hidden_states, attention_mask, position_embeddings, past_key_values, **rest):
        given = {"attention_mask": attention_mask, "position_embeddings": position_embeddings}
        return (own(self, hidden_states, past_key_values=past_key_values, **given, **rest), None)

    monkeypatch.setattr(layer, "forward", forward)
    with (
        attach(model := tiny_onevision()),
        pytest.raises(UnsupportedError, match="returned a tuple instead of a tensor"),
        torch.no_grad(),
    ):
        model(**single())


def test_attention_that_ignores_the_interface_is_refused(monkeypatch):
    attention = type(tiny_onevision().get_decoder().layers[0].self_attn)

    def forward(self, hidden_states, position_embeddings, attention_mask, past_key_values, **rest):
        return self.o_proj(self.q_proj(hidden_states)), None

    monkeypatch.setattr(attention, "forward", forward)
    with (
        pytest.raises(UnsupportedError, match="no attention in Qwen2DecoderLayer dispatches"),
        attach(tiny_onevision()),
    ):
        pass


@pytest.mark.parametrize(
    ("reducer", "word"),
    [(FastV(), "Qwen2DecoderLayer 1 did not call"), (PyramidDrop(), "does not call the attention")],
)
def test_attention_that_passes_the_interface_by_is_an_error_and_no_score(
    reducer, word, monkeypatch
):
    attention = type(tiny_onevision().get_decoder().layers[0].self_attn)

    def forward(self, hidden_states, position_embeddings, attention_mask, past_key_values, **rest):
        assert ALL_ATTENTION_FUNCTIONS  # named, and not called
        return self.o_proj(self.q_proj(hidden_states)), None

    monkeypatch.setattr(attention, "forward", forward)
    with (
        tokenreduce.reduce(model := tiny_onevision(), reducer),
        pytest.raises(UnsupportedError, match=word),
        torch.no_grad(),
    ):
        model(**single(), use_cache=False)


def test_a_layer_without_a_norm_before_it_cannot_be_looked_ahead_at():
    model = tiny_onevision()
    for layer in model.get_decoder().layers:
        layer.norm_before = layer._modules.pop("input_layernorm")
    with (
        tokenreduce.reduce(model, PyramidDrop(layers=(-1,))),
        pytest.raises(UnsupportedError, match="has no input_layernorm"),
        torch.no_grad(),
    ):
        model(**single())


def test_arguments_hidden_by_a_wrapper_are_found(monkeypatch):
    """What accelerate makes of a layer's forward takes anything, but says what it wraps."""
    import functools

    model = tiny_onevision()
    for layer in model.get_decoder().layers:
        own = layer.forward
        layer.forward = functools.wraps(own)(lambda *args, own=own, **kwargs: own(*args, **kwargs))
    with attach(model) as run, torch.no_grad():
        model(**single())
    assert run.trace.img_memory < 1
