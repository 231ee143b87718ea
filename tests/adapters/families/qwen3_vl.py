"""Qwen3-VL, dense and as a mixture of experts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.adapters import patched
from tests.adapters.family import FamilyCase, ready
from tests.adapters.patched import BEGIN, END, IMAGE, PATCH, VIDEO, Patched
from tokenreduce_model_adapters.qwen3_vl import Qwen3VL

PROMPTS = Patched(apart=True, before=(17, 18, BEGIN))
HALF = [0.5, 0.5, 0.5]


def tiny_qwen3_vl(kind: str = "Qwen3VL", attention: str = "sdpa", **text: Any) -> Any:
    """Return a random Qwen3-VL of eight layers, of which three get visual features."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vision_config={
            "depth": 3,
            "hidden_size": 16,
            "intermediate_size": 32,
            "out_hidden_size": 32,
            "num_heads": 2,
            "patch_size": PATCH,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1, 2],
            "initializer_range": 0.3,
        },
        text_config={
            "vocab_size": 128,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 8,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "initializer_range": 0.3,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]},
            **text,
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=BEGIN,
        vision_end_token_id=END,
    )
    model = ready(getattr(transformers, f"{kind}ForConditionalGeneration")(config))
    model.set_attn_implementation(attention)
    return model


def tiny_qwen3_vl_moe() -> Any:
    """Return a random mixture of four experts, of which each token goes through two."""
    return tiny_qwen3_vl(
        "Qwen3VLMoe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16
    )


MODELS = {"Qwen3VL": tiny_qwen3_vl, "Qwen3VLMoe": tiny_qwen3_vl_moe}
VARIANTS: tuple[dict[str, str], ...] = ({}, {"kind": "Qwen3VLMoe"})


def unmixed(model: Any) -> None:
    for block in model.model.visual.blocks:
        torch.nn.init.zeros_(block.attn.proj.weight)
        torch.nn.init.zeros_(block.attn.proj.bias)


def write_checkpoint(directory: Path, kind: str = "Qwen3VL") -> None:
    """Write a tiny checkpoint of the family."""
    half = {"image_mean": HALF, "image_std": HALF}
    image = patched.clip_settings("", image_processor_type="Qwen2VLImageProcessor", **half)
    del image["video_processor_type"], image["return_metadata"]
    size = {"longest_edge": 8192, "shortest_edge": 1024}
    video = patched.clip_settings("Qwen3VLVideoProcessor", **half, size=size)
    processor: dict[str, Any] = {
        "processor_class": "Qwen3VLProcessor",
        "image_processor": image,
    }
    made = patched.tokenizer(patched.SPECIAL, patched.TEMPLATE)
    processor["video_processor"] = video
    patched.write(directory, MODELS[kind](), made, processor)


def hf_inputs(
    directory: Path, frames: Tensor, question: str, times: Sequence[float]
) -> dict[str, Any]:
    """Return what transformers' own processor makes of a clip."""
    return patched.transformers_inputs(directory, frames, question, times)


def case(name: str, model: Any) -> FamilyCase:
    return FamilyCase(
        name,
        Qwen3VL(),
        model,
        {
            "image": PROMPTS.image,
            "images": PROMPTS.images,
            "video": PROMPTS.video,
            "video+image": PROMPTS.both,
            "text": PROMPTS.text,
            "ragged": PROMPTS.ragged,
        },
        features=("get_image_features",),  # videos go through it as well
        probes=PROMPTS.probes,
        unmixed=unmixed,
        probed=("image", "images", "video"),
    )


CASES = (case("qwen3_vl", tiny_qwen3_vl), case("qwen3_vl_moe", tiny_qwen3_vl_moe))
