"""Qwen2.5-VL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.adapters import patched
from tests.adapters.family import FamilyCase, Inputs, ready
from tests.adapters.patched import BEGIN, END, IMAGE, MERGE, PATCH, VIDEO, Patched
from tokenreduce_model_adapters.qwen2_5_vl import Qwen2_5_VL

PROMPTS = Patched()
SECONDS = [1.5, 0.5, 2.0]  # of a group of frames, for each video of the ragged batch


def tiny_qwen2_5_vl(attention: str = "sdpa") -> Any:
    """Return a random Qwen2.5-VL of six layers."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 32,
            "out_hidden_size": 32,
            "num_heads": 2,
            "window_size": 2 * PATCH * MERGE,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
            "patch_size": PATCH,
            "initializer_range": 0.3,
        },
        text_config={
            "vocab_size": 128,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "initializer_range": 0.3,
            "bos_token_id": None,
            "eos_token_id": None,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]},
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=BEGIN,
        vision_end_token_id=END,
    )
    model = ready(Qwen2_5_VLForConditionalGeneration(config))
    model.set_attn_implementation(attention)
    return model


def video() -> Inputs:
    return {**PROMPTS.video(), "second_per_grid_ts": torch.tensor(SECONDS[:1])}


def both() -> Inputs:
    return {**PROMPTS.both(), "second_per_grid_ts": torch.tensor(SECONDS[:1])}


def ragged() -> Inputs:
    return {**PROMPTS.ragged(), "second_per_grid_ts": torch.tensor(SECONDS)}


def unmixed(model: Any) -> None:
    for block in model.model.visual.blocks:
        torch.nn.init.zeros_(block.attn.proj.weight)
        torch.nn.init.zeros_(block.attn.proj.bias)


def write_checkpoint(directory: Path) -> None:
    """Write a tiny checkpoint of the family."""
    image = patched.clip_settings("", image_processor_type="Qwen2VLImageProcessor")
    del image["video_processor_type"], image["return_metadata"]
    video = patched.clip_settings("Qwen2VLVideoProcessor", min_frames=4, max_frames=768)
    processor = {"processor_class": "Qwen2_5_VLProcessor", "image_processor": image}
    made = patched.tokenizer(patched.SPECIAL, patched.TEMPLATE)
    patched.write(directory, tiny_qwen2_5_vl(), made, {**processor, "video_processor": video})


def hf_inputs(
    directory: Path, frames: Tensor, question: str, times: Sequence[float]
) -> dict[str, Any]:
    """Return what transformers' own processor makes of a clip."""
    return patched.transformers_inputs(directory, frames, question, times)


CASES = (
    FamilyCase(
        "qwen2_5_vl",
        Qwen2_5_VL(),
        tiny_qwen2_5_vl,
        {
            "image": PROMPTS.image,
            "images": PROMPTS.images,
            "video": video,
            "video+image": both,
            "text": PROMPTS.text,
            "ragged": ragged,
        },
        features=("get_image_features", "get_video_features"),
        probes=PROMPTS.probes,
        unmixed=unmixed,
        probed=("image", "images", "video"),
    ),
)
