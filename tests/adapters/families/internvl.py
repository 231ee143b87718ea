"""InternVL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.adapters import patched
from tests.adapters.family import Cell, FamilyCase, Inputs, ready
from tests.adapters.llavas import PATCH, SIZE, llama
from tests.adapters.patched import transformers_inputs, write
from tests.adapters.tiled import TILE, disturbed, pixels, prompt
from tokenreduce_model_adapters.internvl import InternVL

IMAGE = 120
SPECIAL = {
    IMAGE: "<IMG_CONTEXT>",
    121: "<video>",
    122: "<img>",
    123: "</img>",
    124: "<|im_start|>",
    125: "<|im_end|>",
}
NAMED = {
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
    "start_image_token": "<img>",
    "end_image_token": "</img>",
}
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<IMG_CONTEXT>\n"
    "{% elif part['type'] == 'video' %}<video>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = ("what", "is", "this", "Frame", "Image", "and")
FRAMES = 3


def tokenizer() -> Any:
    return patched.tokenizer(SPECIAL, TEMPLATE, words=WORDS, named=NAMED)


def tiny_internvl() -> Any:
    """Return a random InternVL of six layers."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig

    torch.manual_seed(0)
    vision = InternVLVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=PATCH,
        initializer_range=0.3,
    )
    config = InternVLConfig(
        vision_config=vision,
        text_config=llama(),
        image_token_id=IMAGE,
        image_seq_length=TILE,
        tie_word_embeddings=False,
    )
    model = ready(InternVLForConditionalGeneration(config))
    for linear in (
        model.model.multi_modal_projector.linear_1,
        model.model.multi_modal_projector.linear_2,
    ):
        torch.nn.init.normal_(linear.weight)
    return model


def picture(tiles: int = 1) -> str:
    return "<img>" + "<IMG_CONTEXT>" * TILE * tiles + "</img>"


def clip(frames: int = FRAMES) -> str:
    return "\n".join(f"Frame{number + 1}: {picture()}" for number in range(frames))


def asked(*texts: str, tiles: int) -> Inputs:
    rows = (f"<|im_start|>user\n{text}\nwhat is this<|im_end|>" for text in texts)
    inputs = prompt(tokenizer(), *rows)
    return {**inputs, "pixel_values": pixels(tiles)} if tiles else inputs


def image() -> Inputs:
    return asked(picture(3), tiles=3)


def images() -> Inputs:
    return asked(f"{picture(3)}\n{picture()}\n{picture()}", tiles=5)


def video() -> Inputs:
    return asked(clip(), tiles=FRAMES)


def both() -> Inputs:
    return asked(f"{clip()}\n{picture(3)}", tiles=FRAMES + 3)


def text() -> Inputs:
    return asked("", tiles=0)


def ragged() -> Inputs:
    """Return a cut image, a video beside an image of one tile, two videos, and text."""
    videos = f"{clip(2)}\n{clip(3)}"
    return asked(picture(3), f"{clip()}\n{picture()}", videos, "", tiles=3 + FRAMES + 1 + 5)


def unmixed(model: Any) -> None:
    for layer in model.model.vision_tower.encoder.layer:
        torch.nn.init.zeros_(layer.attention.projection_layer.weight)


def probes(model: Any, inputs: Inputs) -> Iterator[tuple[Inputs, int, Cell]]:
    """Disturb frames of a video, or tiles that are an item each."""
    if len(inputs["pixel_values"]) == FRAMES:
        places = [((frame,), (0, frame, 0, 0)) for frame in range(FRAMES)]
    else:
        places = [((tile,), (tile, 0, 0, 0)) for tile in range(5)]
    return disturbed(inputs, places)


def write_checkpoint(directory: Path) -> None:
    """Write a tiny checkpoint of the family."""
    settings = patched.clip_settings("InternVLVideoProcessor", size={"height": SIZE, "width": SIZE})
    for name in ("merge_size", "patch_size", "temporal_patch_size"):
        del settings[name]
    image = {**settings, "image_processor_type": "GotOcr2ImageProcessor", "crop_to_patches": False}
    del image["video_processor_type"], image["return_metadata"]
    processor = {
        "processor_class": "InternVLProcessor",
        "image_processor": image,
        "video_processor": settings,
        "image_seq_length": TILE,
    }
    write(directory, tiny_internvl(), tokenizer(), processor)


def hf_inputs(
    directory: Path, frames: Tensor, question: str, times: Sequence[float]
) -> dict[str, Any]:
    """Return what transformers' own processor makes of a clip."""
    return transformers_inputs(directory, frames, question, times)


CASES = (
    FamilyCase(
        "internvl",
        InternVL(),
        tiny_internvl,
        {
            "image": image,
            "images": images,
            "video": video,
            "video+image": both,
            "text": text,
            "ragged": ragged,
        },
        features=("get_image_features",),
        probes=probes,
        unmixed=unmixed,
        probed=("images", "video"),
    ),
)
