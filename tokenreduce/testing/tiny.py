"""Tiny random models and prompts, built in memory."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

IMAGE, VIDEO, PAD = 120, 121, 0
PATCH = 8
TILES = ((1, 1), (2, 1), (1, 2))
SIDE = 2  # tokens per side of a video frame: ceil((32 // 8) / 2)
PER_FRAME = SIDE * SIDE


def tiny_onevision(
    layers: int = 6,
    attention: str = "sdpa",
    *,
    heads: int = 4,
    key_heads: int = 2,
    hidden: int = 32,
    seed: int = 0,
    backbone: Literal["qwen2", "llama", "mistral"] = "qwen2",
    image_size: int = 32,
    **settings: Any,
) -> Any:
    """Return a random LLaVA-OneVision; weights are large so that attention is far from uniform.

    Parameters
    ----------
    layers, heads, key_heads, hidden
        Sizes of the decoder.
    attention
        Attention implementation of the whole model.
    seed
        Of the weights.
    backbone
        Family of the decoder.
    image_size
        Pixels per side of a picture; patches have 8, so 32 makes 2 x 2 tokens of a video frame.
    **settings
        More of the decoder's configuration, such as a sliding window.
    """
    from transformers import (
        LlamaConfig,
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        MistralConfig,
        Qwen2Config,
        SiglipVisionConfig,
    )

    torch.manual_seed(seed)
    vision = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=image_size,
        patch_size=PATCH,
    )
    backbones = {"qwen2": Qwen2Config, "llama": LlamaConfig, "mistral": MistralConfig}
    text = backbones[backbone](
        vocab_size=128,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=65536,
        initializer_range=0.3,
        **settings,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[image_size * rows, image_size * columns] for rows, columns in TILES],
    )
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = PAD
    model.set_attn_implementation(attention)
    return model


def video_ids(frames: int) -> list[int]:
    """Return the placeholder ids of one video: its grid and one newline."""
    return [VIDEO] * (frames * PER_FRAME + 1)


def padded(rows: list[list[int]], extra: int = 0) -> dict[str, Tensor]:
    """Return ids and mask of prompts padded on the left to the longest, and by ``extra`` more."""
    longest = max(len(row) for row in rows) + extra
    gaps = [longest - len(row) for row in rows]
    ids = [[PAD] * gap + row for gap, row in zip(gaps, rows, strict=True)]
    mask = [[0] * gap + [1] * len(row) for gap, row in zip(gaps, rows, strict=True)]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def batch(rows: list[list[int]], videos: int, frames: int, seed: int = 1) -> dict[str, Tensor]:
    """Return model inputs for prompts padded on the left, with ``videos`` random clips in all."""
    inputs = padded(rows)
    if videos:
        generator = torch.Generator().manual_seed(seed)
        inputs["pixel_values_videos"] = torch.randn(videos, frames, 3, 32, 32, generator=generator)
    return inputs


def single(frames: int = 6) -> dict[str, Tensor]:
    """Return one prompt about one video."""
    return batch([[1, 2, 3, *video_ids(frames), 5, 6, 7, 8, 9]], 1, frames)


def ragged(frames: int = 6) -> dict[str, Tensor]:
    """Return three prompts of different length: one video, two videos, none."""
    one = [1, 2, 3, *video_ids(frames), 5, 6, 7]
    two = [4, *video_ids(frames), 11, 12, *video_ids(frames), 13, 14, 15, 16]
    return batch([one, two, [21, 22, 23, 24]], 3, frames)
