"""VideoLLaMA3."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.adapters import patched
from tests.adapters.family import FamilyCase, ready
from tests.adapters.patched import IMAGE, PATCH, VIDEO, Patched
from tokenreduce_model_adapters.video_llama_3 import VideoLlama3

PROMPTS = Patched(
    temporal=1, apart=True, typed=False, merges=True, before=(18, 1, 13, 19, 15), after=(14,)
)
HALF = [0.5, 0.5, 0.5]


def tiny_video_llama_3(attention: str = "sdpa") -> Any:
    """Return a random VideoLLaMA3 of six layers."""
    from transformers import VideoLlama3Config, VideoLlama3ForConditionalGeneration

    torch.manual_seed(0)
    config = VideoLlama3Config(
        vision_config={
            "model_type": "video_llama_3_vision",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "patch_size": PATCH,
            "initializer_range": 0.3,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": 128,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "initializer_range": 0.3,
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    model = ready(VideoLlama3ForConditionalGeneration(config))
    model.set_attn_implementation(attention)
    return model


def unmixed(model: Any) -> None:
    for layer in model.model.vision_model.encoder.layers:
        torch.nn.init.zeros_(layer.self_attn.out_proj.weight)
        torch.nn.init.zeros_(layer.self_attn.out_proj.bias)


def write_checkpoint(directory: Path) -> None:
    """Write a tiny checkpoint of the family; its processor prunes unless it is told not to."""
    half = {"image_mean": HALF, "image_std": HALF, "temporal_patch_size": 1}
    image = patched.clip_settings("", image_processor_type="VideoLlama3ImageProcessor", **half)
    del image["video_processor_type"], image["return_metadata"]
    size = {"longest_edge": 8192, "shortest_edge": 256}
    video = patched.clip_settings(
        "VideoLlama3VideoProcessor", **half, size=size, use_token_compression=True
    )
    processor = {"processor_class": "VideoLlama3Processor", "image_processor": image}
    made = patched.tokenizer(patched.SPECIAL, patched.TEMPLATE)
    patched.write(directory, tiny_video_llama_3(), made, {**processor, "video_processor": video})


def hf_inputs(
    directory: Path, frames: Tensor, question: str, times: Sequence[float]
) -> dict[str, Any]:
    """Return what transformers' own processor makes of a clip."""
    return patched.transformers_inputs(
        directory, frames, question, times, use_token_compression=False
    )


CASES = (
    FamilyCase(
        "video_llama_3",
        VideoLlama3(),
        tiny_video_llama_3,
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
    ),
)
