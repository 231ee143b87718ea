"""The embedded model as a standard Hugging Face configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenreduce.embedded.clips import CELLS, SIZE
from tokenreduce.embedded.questions import IM_END, IM_START, IMAGE, PAD, VIDEO, VOCABULARY, WORD_ID

if TYPE_CHECKING:
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

LAYERS = 14
DIM = 128
HEADS = 4
HEAD_DIM = DIM // HEADS
FFN = 256
VISION_LAYERS = 3
VISION_DIM = 96
VISION_HEADS = 4
VISION_FFN = 192
PATCH = 8  # px
ROPE_THETA = 100_000.0
FRAME_TOKENS = CELLS * CELLS


def build_config() -> LlavaOnevisionConfig:
    """Return the configuration of the shipped model."""
    from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

    vision = SiglipVisionConfig(
        hidden_size=VISION_DIM,
        intermediate_size=VISION_FFN,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=VISION_HEADS,
        image_size=SIZE,
        patch_size=PATCH,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=len(VOCABULARY),
        hidden_size=DIM,
        intermediate_size=FFN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        pad_token_id=WORD_ID[PAD],
        bos_token_id=WORD_ID[IM_START],
        eos_token_id=WORD_ID[IM_END],
    )
    return LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=WORD_ID[IMAGE],
        video_token_index=WORD_ID[VIDEO],
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        vision_aspect_ratio="anyres_max_1",
        image_grid_pinpoints=[[SIZE, SIZE]],
        tie_word_embeddings=True,
    )


def build_model() -> LlavaOnevisionForConditionalGeneration:
    """Return the model with random weights, float32, in evaluation mode."""
    from transformers import LlavaOnevisionForConditionalGeneration

    return LlavaOnevisionForConditionalGeneration(build_config()).eval()
