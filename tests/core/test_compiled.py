"""What torch.compile does to a model, and what of it goes with reduction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tokenreduce
from tokenreduce.errors import UnsupportedError
from tokenreduce.testing.tiny import single, tiny_onevision
from tokenreduce_plugins.fastv import FastV

BACKEND = "eager"  # traces as every backend does, without a C++ compiler


def forward_of_the_model(model: Any) -> Any:
    model.forward = torch.compile(model.forward, backend=BACKEND)
    return model


def the_whole_model(model: Any) -> Any:
    return torch.compile(model, backend=BACKEND)


def the_model_in_place(model: Any) -> Any:
    model.compile(backend=BACKEND)
    return model


def what_holds_the_decoder(model: Any) -> Any:
    model.model.compile(backend=BACKEND)
    return model


def the_decoder(model: Any) -> Any:
    model.get_decoder().forward = torch.compile(model.get_decoder().forward, backend=BACKEND)
    return model


def a_layer(model: Any) -> Any:
    model.get_decoder().layers[1].compile(backend=BACKEND)
    return model


def a_wrapped_layer(model: Any) -> Any:
    layers = model.get_decoder().layers
    layers[1] = torch.compile(layers[1], backend=BACKEND)
    return model


def attention(model: Any) -> Any:
    model.get_decoder().layers[2].self_attn.compile(backend=BACKEND)
    return model


def forward_of_attention(model: Any) -> Any:
    part = model.get_decoder().layers[2].self_attn
    part.forward = torch.compile(part.forward, backend=BACKEND)
    return model


@pytest.mark.parametrize(
    ("compiled", "name"),
    [
        (forward_of_the_model, "LlavaOnevisionForConditionalGeneration"),
        (the_whole_model, "OptimizedModule"),
        (the_model_in_place, "LlavaOnevisionForConditionalGeneration"),
        (what_holds_the_decoder, "model"),
        (the_decoder, "model.language_model"),
        (a_layer, "decoder layer 1"),
        (a_wrapped_layer, "decoder layer 1"),
        (attention, "self_attn of decoder layer 2"),
        (forward_of_attention, "self_attn of decoder layer 2"),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_what_hooks_lie_in_is_refused(compiled: Callable[[Any], Any], name: str) -> None:
    model = compiled(tiny_onevision())
    with (
        pytest.raises(UnsupportedError, match=rf"^{name} is compiled: .*layer\.mlp\.compile"),
        tokenreduce.reduce(model, FastV()),
    ):
        pass


def test_compiled_within_the_block_is_refused_by_generate() -> None:
    model = tiny_onevision()
    with tokenreduce.reduce(model, FastV()):
        forward_of_the_model(model)
        with pytest.raises(UnsupportedError, match="is compiled"):
            model.generate(**single(), max_new_tokens=2)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_mlps_and_vision_tower_give_the_same_tokens() -> None:
    def run(model: Any) -> tuple[list[int], int]:
        traced: list[int] = []

        def backend(graph: Any, inputs: Any) -> Any:
            traced.append(len(inputs))
            return graph

        if compiled:
            for layer in model.get_decoder().layers:
                layer.mlp.compile(dynamic=True, backend=backend)
            model.model.vision_tower.compile(backend=backend)
        with tokenreduce.reduce(model, FastV(layer=1, ratio=0.5)):
            out = model.generate(**single(), max_new_tokens=6, do_sample=False)
        return out[0].tolist(), len(traced)

    compiled = False
    expected, graphs = run(tiny_onevision())
    assert graphs == 0
    compiled = True
    found, graphs = run(tiny_onevision())
    assert found == expected
    assert graphs > 0
