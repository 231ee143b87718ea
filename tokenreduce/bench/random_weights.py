"""Modules of transformers with random weights, of the sizes of a named shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tokenreduce.bench.shapes import TextShape, TowerShape

CONTEXT = 1 << 17  # tokens: room for the longest prompt that is timed


def random_decoder(text: TextShape, *, dtype: str, device: str, attention: str) -> Any:
    """Return a causal language model in ``eval()`` mode.

    Parameters
    ----------
    text
        Its sizes.
    dtype, device
        Of its weights.
    attention
        Attention implementation.
    """
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    qwen = text.family == "qwen2"
    config = (Qwen2Config if qwen else LlamaConfig)(
        vocab_size=text.vocabulary,
        hidden_size=text.hidden,
        intermediate_size=text.intermediate,
        num_hidden_layers=text.layers,
        num_attention_heads=text.heads,
        num_key_value_heads=text.key_heads,
        head_dim=text.head_dim,
        max_position_embeddings=CONTEXT,
        attn_implementation=attention,
    )
    with _made_on(dtype, device):
        model = (Qwen2ForCausalLM if qwen else LlamaForCausalLM)(config).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def random_tower(tower: TowerShape, *, dtype: str, device: str, attention: str) -> Any:
    """Return a vision tower in ``eval()`` mode; see :func:`random_decoder`."""
    from transformers import (
        CLIPVisionConfig,
        CLIPVisionModel,
        InternVLVisionConfig,
        InternVLVisionModel,
        SiglipVisionConfig,
        SiglipVisionModel,
    )

    square = tower.family == "internvl"  # which wants both sides written
    sizes: dict[str, Any] = {
        "hidden_size": tower.hidden,
        "intermediate_size": tower.intermediate,
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
        "image_size": [tower.image] * 2 if square else tower.image,
        "patch_size": [tower.patch] * 2 if square else tower.patch,
        "attn_implementation": attention,
    }
    with _made_on(dtype, device):
        if tower.family == "clip":
            made: Any = CLIPVisionModel(CLIPVisionConfig(**sizes))
        elif tower.family == "siglip":
            made = SiglipVisionModel(SiglipVisionConfig(**sizes, vision_use_head=False))
        else:
            made = InternVLVisionModel(
                InternVLVisionConfig(**sizes, norm_type="rms_norm", use_qk_norm=True)
            )
    return made.eval()


def look(tower: Any, shape: TowerShape, frames: int) -> Callable[[], object]:
    """Return a call that runs a tower over random frames ``[frames, 3, side, side]``."""
    weight = next(tower.parameters())
    with torch.device(weight.device):
        pixels = torch.zeros(frames, 3, shape.image, shape.image, dtype=weight.dtype).normal_()

    def run() -> object:
        with torch.no_grad():
            return tower(pixel_values=pixels)

    return run


@contextmanager
def _made_on(dtype: str, device: str) -> Iterator[None]:
    """Make modules in one number format, on one device, the same weights each time."""
    before = torch.get_default_dtype()
    devices = [device] if device.startswith("cuda") else []
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.random.fork_rng(devices), torch.device(device):
            torch.manual_seed(0)
            yield
    finally:
        torch.set_default_dtype(before)
