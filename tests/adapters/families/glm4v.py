"""GLM-4.1V and GLM-4.6V."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.adapters import patched
from tests.adapters.family import FamilyCase, Inputs, ready
from tests.adapters.patched import BEGIN, END, IMAGE, PATCH, VIDEO, Patched
from tokenreduce_model_adapters.glm4v import Glm4v

BEGIN_VIDEO, END_VIDEO, USER, ASSISTANT = 124, 125, 126, 127
SPECIAL = {
    IMAGE: "<|image|>",
    VIDEO: "<|video|>",
    BEGIN: "<|begin_of_image|>",
    END: "<|end_of_image|>",
    BEGIN_VIDEO: "<|begin_of_video|>",
    END_VIDEO: "<|end_of_video|>",
    USER: "<|user|>",
    ASSISTANT: "<|assistant|>",
}
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|begin_of_image|><|image|><|end_of_image|>"
    "{% elif part['type'] == 'video' %}<|begin_of_video|><|video|><|end_of_video|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
PROMPTS = Patched(token=IMAGE, apart=True, after=(END, 17), around=(BEGIN_VIDEO, END_VIDEO))
VARIANTS: tuple[dict[str, str], ...] = ({}, {"kind": "Glm46V"})


def tiny_glm4v(kind: str = "Glm4v", attention: str = "sdpa") -> Any:
    """Return a random GLM-4.1V of six layers; rotary positions are in half of a head."""
    import transformers

    torch.manual_seed(0)
    vision = transformers.Glm4vVisionConfig(
        depth=1,
        hidden_size=16,
        intermediate_size=32,
        out_hidden_size=32,
        num_heads=2,
        image_size=32,
        patch_size=PATCH,
        initializer_range=0.3,
    )
    text = transformers.Glm4vTextConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [1, 1, 0],
            "partial_rotary_factor": 0.5,
        },
    )
    config = getattr(transformers, f"{kind}Config")(
        vision_config=vision,
        text_config=text,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_start_token_id=BEGIN,
        image_end_token_id=END,
        video_start_token_id=BEGIN_VIDEO,
        video_end_token_id=END_VIDEO,
    )
    model = ready(getattr(transformers, f"{kind}ForConditionalGeneration")(config))
    model.set_attn_implementation(attention)
    return model


def ragged() -> Inputs:
    """Return two videos, text, one video, and text: images do not go beside videos."""
    return PROMPTS.ragged(pictures=False)


def unmixed(model: Any) -> None:
    for block in model.model.visual.blocks:
        torch.nn.init.zeros_(block.attn.proj.weight)


def write_checkpoint(directory: Path, kind: str = "Glm4v") -> None:
    """Write a tiny checkpoint of the family."""
    image = patched.clip_settings("", image_processor_type=f"{kind}ImageProcessor")
    del image["video_processor_type"], image["return_metadata"]
    size = {"longest_edge": 8192, "shortest_edge": 1024}
    video = patched.clip_settings(f"{kind}VideoProcessor", size=size)
    processor = {"processor_class": f"{kind}Processor", "image_processor": image}
    made = patched.tokenizer(SPECIAL, TEMPLATE)
    patched.write(directory, tiny_glm4v(kind), made, {**processor, "video_processor": video})


def hf_inputs(
    directory: Path, frames: Tensor, question: str, times: Sequence[float]
) -> dict[str, Any]:
    """Return what transformers' own processor makes of a clip."""
    return patched.transformers_inputs(directory, frames, question, times)


def case(name: str, kind: str) -> FamilyCase:
    return FamilyCase(
        name,
        Glm4v(),
        partial(tiny_glm4v, kind),
        {
            "image": PROMPTS.image,
            "images": PROMPTS.images,
            "video": PROMPTS.video,
            "text": PROMPTS.text,
            "ragged": ragged,
        },
        features=("get_image_features", "get_video_features"),
        probes=PROMPTS.probes,
        unmixed=unmixed,
        probed=("image", "images", "video"),
    )


CASES = (case("glm4v", "Glm4v"), case("glm46v", "Glm46V"))
