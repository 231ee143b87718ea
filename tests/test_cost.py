"""The cost model, against torch's own counter on real models, and against arithmetic by hand."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as hf
from torch.utils.flop_counter import FlopCounterMode

import tokenreduce
from tokenreduce import Layout
from tokenreduce.adapter import ModelAdapter
from tokenreduce.attention import received
from tokenreduce.cost import DecoderShape, kv_bytes, prefill_cost, scoring_flops, vision_flops
from tokenreduce.errors import AdapterError
from tokenreduce.session import Session
from tokenreduce.testing.tiny import single, tiny_onevision
from tokenreduce_plugins.fastv import FastV
from tokenreduce_plugins.keep_all import KeepAll
from tokenreduce_plugins.tome import ToMe
from tokenreduce_plugins.vcc import Vcc

LAYERS, BEFORE, FRAMES, ROWS, COLUMNS, AFTER = 4, 3, 4, 4, 5, 9
VISUAL = FRAMES * ROWS * COLUMNS
TOKENS = BEFORE + VISUAL + AFTER

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 48}

CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: hf.LlamaConfig(**SIZES),
    "qwen2": lambda: hf.Qwen2Config(**SIZES, num_key_value_heads=2),
    "qwen3": lambda: hf.Qwen3Config(**SIZES, num_key_value_heads=1, head_dim=32),
    "gemma3": lambda: hf.Gemma3TextConfig(
        **SIZES, num_key_value_heads=2, head_dim=24, layer_types=["full_attention"] * LAYERS
    ),
    "starcoder2": lambda: hf.Starcoder2Config(**SIZES, num_key_value_heads=2, sliding_window=None),
    "mixtral": lambda: hf.MixtralConfig(
        **SIZES, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=3
    ),
    "qwen3_moe": lambda: hf.Qwen3MoeConfig(
        **SIZES, **EXPERTS, num_experts=8, decoder_sparse_step=2, mlp_only_layers=[3]
    ),
    "qwen2_moe": lambda: hf.Qwen2MoeConfig(
        **SIZES, **EXPERTS, num_experts=6, shared_expert_intermediate_size=80, num_key_value_heads=2
    ),
    "glm4_moe": lambda: hf.Glm4MoeConfig(
        **SIZES, **EXPERTS, n_routed_experts=4, n_shared_experts=2, first_k_dense_replace=2,
        num_key_value_heads=2, head_dim=16,
    ),
    "exaone_moe": lambda: hf.ExaoneMoeConfig(
        **SIZES, **EXPERTS, num_experts=4, num_shared_experts=1, num_key_value_heads=2, head_dim=16,
        layer_types=["full_attention"] * LAYERS,
        mlp_layer_types=["sparse", "dense", "dense", "sparse"],
    ),
    "aria": lambda: hf.AriaTextConfig(
        **SIZES, moe_num_experts=4, moe_topk=2, moe_num_shared_experts=2, num_key_value_heads=2,
        pad_token_id=0,
    ),
    "hunyuan": lambda: hf.HunYuanDenseV1Config(**SIZES, num_key_value_heads=2, head_dim=16),
    "persimmon": lambda: hf.PersimmonConfig(**SIZES),
}  # fmt: skip
"""Grouped keys, a head width of its own, an MLP without gate, experts in four arrangements."""


class TextOnly(ModelAdapter):
    """Attaches to a language model without vision; the test says where the visual tokens sit."""

    name = "text_only"
    model_types = ()

    def layout(self, model: Any, inputs: Any) -> Layout:
        raise AssertionError("the session is given its layout")

    def load(self, directory: Any, *, dtype: str, device: str) -> Any:
        raise AssertionError("models are built in memory")


def causal_lm(family: str) -> Any:
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(CONFIGS[family](), attn_implementation="eager")
    if any(name.endswith("experts") for name, _ in model.named_modules()):
        # The counter does not see grouped products on a CPU.
        model.set_experts_implementation("eager")
    return model.eval()


def attached(model: Any, reducer: Any) -> Any:
    layout = Layout.video(start=BEFORE, frames=FRAMES, rows=ROWS, columns=COLUMNS, length=TOKENS)
    return Session(model, TextOnly(), [reducer], layout=layout).attached()


def counted(call: Callable[[], object]) -> dict[str, int]:
    """Return the FLOPs that torch sees, by path of the module; "Global" is all."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        call()
    return {path: sum(of.values()) for path, of in counter.get_flop_counts().items()}


def ids() -> torch.Tensor:
    return torch.arange(TOKENS)[None] % 90


def held(run: Any) -> list[int]:
    return [len(samples[0]) for samples in run.trace.kept_positions()]


@pytest.mark.parametrize("family", CONFIGS)
def test_full_prefill_is_what_torch_counts(family: str) -> None:
    model = causal_lm(family)
    shape = DecoderShape.from_config(model.config)
    cost = prefill_cost(shape, [TOKENS] * LAYERS, causal=False, logits=TOKENS)
    assert cost.total == pytest.approx(counted(lambda: model(ids()))["Global"], rel=0.01)


@pytest.mark.parametrize("family", CONFIGS)
def test_each_layer_is_what_torch_counts(family: str) -> None:
    """Totals may agree by chance: a layer with experts is told from one without."""
    model = causal_lm(family)
    seen = counted(lambda: model(ids()))
    shape = DecoderShape.from_config(model.config)
    cost = prefill_cost(shape, [TOKENS] * LAYERS, causal=False)
    for layer, said in enumerate(cost.layers):
        (found,) = (n for path, n in seen.items() if path.endswith(f".layers.{layer}"))
        assert sum(said) == pytest.approx(found, rel=0.01)


@pytest.mark.parametrize("family", CONFIGS)
def test_weights_are_the_models(family: str) -> None:
    model = causal_lm(family)
    shape = DecoderShape.from_config(model.config)
    for number, layer in enumerate(model.get_decoder().layers):
        found = sum(weight.numel() for weight in layer.parameters() if weight.dim() > 1)
        said = sum(m.inputs * m.outputs * m.stored for m in shape.matrices(number))
        # The gate of Qwen2-MoE's shared expert, one column, is left out.
        assert found - said in (0, shape.hidden)


@pytest.mark.parametrize("reducer", [FastV(queries="text"), Vcc(), ToMe(r=8)])
@pytest.mark.parametrize("family", CONFIGS)
def test_reduced_prefill_is_what_torch_counts(family: str, reducer: Any) -> None:
    model = causal_lm(family)
    shape = DecoderShape.from_config(model.config)
    with attached(model, reducer) as run:
        found = counted(lambda: model(ids()))["Global"]
    tokens = held(run)
    assert tokens[0] == TOKENS > tokens[-1]
    cost = prefill_cost(shape, tokens, causal=False, logits=tokens[-1])
    extra = 0
    if isinstance(reducer, FastV):
        extra = scoring_flops(shape, AFTER, TOKENS)
    if isinstance(reducer, ToMe):
        # Cosines of the even tokens to the odd ones, after each of the layers 0 to 2.
        extra = sum(2 * (n // 2) ** 2 * shape.head_dim for n in (80, 72, 64))
    assert cost.total + extra == pytest.approx(found, rel=0.01)


def test_scoring_is_what_torch_counts() -> None:
    shape = DecoderShape.from_config(CONFIGS["qwen3"]())
    query, key = torch.randn(4, 7, 32), torch.randn(1, 50, 32)
    found = counted(lambda: received(query, key, None, 1.0))["Global"]
    assert scoring_flops(shape, queries=7, keys=50) == found == 2 * 4 * 32 * 7 * 50


@pytest.mark.parametrize("reducer", [KeepAll(), FastV(queries="text")])
def test_whole_video_model_with_its_tower_apart(reducer: Any) -> None:
    model = tiny_onevision(attention="eager", hidden=64, backbone="llama")
    inputs = single(6)
    with tokenreduce.reduce(model, reducer) as run:
        seen = counted(lambda: model(**inputs, logits_to_keep=1))
    tower, head, projector = (
        next(n for path, n in seen.items() if path.endswith(name))
        for name in ("vision_tower", "vision_tower.head", "multi_modal_projector")
    )
    # The head pools a whole picture into one vector, which this model has no use for.
    assert vision_flops(model.config.vision_config, 6) == pytest.approx(tower - head, rel=0.01)
    shape = DecoderShape.from_config(model.config.text_config)
    said = prefill_cost(shape, held(run), causal=False).total
    if isinstance(reducer, FastV):
        said += scoring_flops(shape, 5, inputs["input_ids"].shape[1])
    assert said == pytest.approx(seen["Global"] - tower - projector, rel=0.01)


VISION = {
    "hidden_size": 48,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
}


def test_clip_tower_is_what_torch_counts() -> None:
    config = hf.CLIPVisionConfig(**VISION)
    tower = hf.CLIPVisionModel._from_config(config, attn_implementation="eager").eval()
    found = counted(lambda: tower(torch.randn(5, 3, 56, 56)))["Global"]
    assert vision_flops(config, 5) == pytest.approx(found, rel=0.01)
    # 16 patches of 588 values and a class token; by hand.
    layer = 2 * 17 * (4 * 48 * 48 + 2 * 48 * 112) + 4 * 48 * 17 * 17
    assert vision_flops(config, 5) == 5 * (2 * 16 * 588 * 48 + 3 * layer)


def test_siglip_tower_is_what_torch_counts() -> None:
    config = hf.SiglipVisionConfig(**VISION, vision_use_head=False)
    tower = hf.SiglipVisionModel._from_config(config, attn_implementation="eager").eval()
    found = counted(lambda: tower(torch.randn(5, 3, 56, 56)))["Global"]
    assert vision_flops(config, 5) == pytest.approx(found, rel=0.01)


def test_qwen2_vl_tower_is_what_torch_counts() -> None:
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

    config = Qwen2VLVisionConfig(depth=3, embed_dim=64, hidden_size=96, num_heads=4, patch_size=14)
    tower = Qwen2VisionTransformerPretrainedModel._from_config(config, attn_implementation="eager")
    grid = torch.tensor([[3, 6, 8]])  # six frames of 6 x 8 patches, two at a time
    pixels = torch.randn(3 * 48, 3 * 2 * 14 * 14)
    found = counted(lambda: tower.eval()(pixels, grid_thw=grid))["Global"]
    assert vision_flops(config, 6, patches=48) == pytest.approx(found, rel=0.01)
    assert vision_flops(config, 5, patches=48) == vision_flops(config, 6, patches=48)
    with pytest.raises(AdapterError, match="pass patches="):
        vision_flops(config, 6)


def test_unknown_towers_are_refused() -> None:
    with pytest.raises(AdapterError, match="'dinov2' is not modelled; known are: clip_vision"):
        vision_flops(hf.Dinov2Config(), 1)


@pytest.mark.parametrize("family", CONFIGS)
def test_cache_bytes_are_the_tensors(family: str) -> None:
    model = causal_lm(family)
    shape = DecoderShape.from_config(model.config)
    with torch.no_grad(), attached(model, Vcc()) as run:
        cache = model(ids(), use_cache=True).past_key_values
    real = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert kv_bytes(shape, held(run), element_bytes=4) == real


SMALL = DecoderShape(
    layers=2, hidden=8, intermediate=16, heads=4, key_heads=2, head_dim=2, vocabulary=10
)


def test_costs_by_hand() -> None:
    # q, o: 8 x 8; k, v: 8 x 4; gate, up, down: 8 x 16. Pairs seen: 3 * 4 / 2 = 6.
    matmul = 2 * 3 * (2 * 64 + 2 * 32 + 3 * 128)
    head = 2 * 8 * 10
    cost = prefill_cost(SMALL, [3, 3], [0, 5])
    assert cost.layers == ((matmul, 2 * 2 * 8 * 6), (matmul, 2 * 2 * 8 * (6 + 3 * 5)))
    assert cost.matmul_flops == 2 * matmul + head
    assert cost.attention_flops == 2 * 2 * 8 * (6 + 6 + 15)
    assert cost.total == cost.matmul_flops + cost.attention_flops
    square = prefill_cost(SMALL, [3, 3], [0, 5], causal=False, logits=3)
    assert square.layers == ((matmul, 2 * 2 * 8 * 9), (matmul, 2 * 2 * 8 * (9 + 15)))
    assert square.head_flops == 3 * head
    assert kv_bytes(SMALL, [3, 2], 2) == 2 * 4 * 2 * 5


def test_bytes_by_hand() -> None:
    # Weights, then what goes in and comes out of each product for three tokens.
    layer = (2 * 64 + 2 * 32 + 3 * 128) + 3 * (2 * (8 + 8) + 2 * (8 + 4) + 3 * (8 + 16))
    # Attention: queries and results are 8 wide, keys and values 4, for new and earlier tokens.
    first, second = 3 * (8 + 8) + 3 * (4 + 4), 3 * (8 + 8) + 8 * (4 + 4)
    head = 8 * 10 + (8 + 10)
    elements = 2 * layer + first + second + head
    assert prefill_cost(SMALL, [3, 3], [0, 5]).bytes == 2 * elements
    assert prefill_cost(SMALL, [3, 3], [0, 5], element_bytes=4).bytes == 4 * elements


def test_experts_by_hand() -> None:
    shape = DecoderShape(
        layers=2, hidden=8, intermediate=16, heads=4, key_heads=4, head_dim=2, vocabulary=10,
        experts=8, active_experts=2, expert_intermediate=5, shared_intermediate=6,
        dense_layers=(0,),
    )  # fmt: skip
    dense, sparse = (layer.matmul for layer in prefill_cost(shape, [3, 3]).layers)
    assert dense == 2 * 3 * (4 * 64 + 3 * 8 * 16)
    assert sparse == 2 * 3 * (4 * 64 + 8 * 8 + 2 * 3 * 8 * 5 + 3 * 8 * 6)
    # One token reaches two experts, four tokens at most all eight, five no more than there are.
    one, four, five = (
        prefill_cost(shape, [0, tokens], logits=0, element_bytes=1).bytes for tokens in (1, 4, 5)
    )
    per_token = 4 * 16 + 16 + 2 * 3 * (8 + 5) + 3 * (8 + 6) + 4 * 8
    assert five - four == per_token
    assert four - one == 3 * per_token + 6 * (3 * 8 * 5)


@pytest.mark.parametrize("name", ["num_experts", "num_local_experts", "n_routed_experts"])
def test_experts_under_any_of_their_names(name: str) -> None:
    """Configurations of transformers alias these names; those of others need not."""
    sizes = SimpleNamespace(**SIZES, **EXPERTS, **{name: 6}, hidden_act="silu")
    assert DecoderShape.from_config(sizes) == DecoderShape(
        layers=LAYERS, hidden=64, intermediate=160, heads=4, key_heads=4, head_dim=16,
        vocabulary=96, gated=True, experts=6, active_experts=2, expert_intermediate=48,
    )  # fmt: skip


def test_counts_for_another_number_of_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="tokens_per_layer has 3 numbers for 2 layers"):
        prefill_cost(SMALL, [3, 3, 3])
    with pytest.raises(ValueError, match="past_per_layer has 1 numbers for 2 layers"):
        prefill_cost(SMALL, [3, 3], [1])


def test_configurations_that_are_not_modelled_are_refused() -> None:
    with pytest.raises(AdapterError, match="DeepseekV3Config has kv_lora_rank=512"):
        DecoderShape.from_config(hf.DeepseekV3Config())
    with pytest.raises(AdapterError, match="OPTConfig has intermediate_size=None"):
        DecoderShape.from_config(hf.OPTConfig())
