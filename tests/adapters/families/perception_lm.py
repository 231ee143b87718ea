"""PerceptionLM, with a tower of transformers in place of that of timm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.adapters import patched
from tests.adapters.family import Cell, FamilyCase, Inputs, padded, ready
from tests.adapters.llavas import PATCH, SIZE, clip, llama, local
from tests.adapters.patched import transformers_inputs, write
from tests.adapters.tiled import TILE, disturbed, pixels
from tokenreduce_model_adapters.perception_lm import PerceptionLM

IMAGE, VIDEO = 120, 121
SPECIAL = {
    IMAGE: "<|image|>",
    VIDEO: "<|video|>",
    122: "<|begin_of_text|>",
    123: "<|start_header_id|>",
    124: "<|end_header_id|>",
    125: "<|eot_id|>",
}
NAMED = {"image_token": "<|image|>", "video_token": "<|video|>"}
TEMPLATE = (
    "{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{% for part in message['content'] if part['type'] == 'image' %}<|image|>{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'video' %}<|video|>{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
TILES, FRAMES = 3, 4
ONE, FILM = [IMAGE] * TILE * TILES, [VIDEO] * TILE * FRAMES


def tiny_perception_lm() -> Any:
    """Return a random PerceptionLM of six layers.

    The model asks its tower for no more than the last hidden states, a class token first.
    """
    from transformers import PerceptionLMConfig, PerceptionLMForConditionalGeneration

    torch.manual_seed(0)
    patches = SIZE // PATCH
    tower = clip(model_args={"embed_dim": 16, "ref_feat_shape": [patches, patches]})
    config = PerceptionLMConfig(
        vision_config=tower,
        text_config=llama(),
        projector_pooling_ratio=2,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )
    model = ready(PerceptionLMForConditionalGeneration(config))
    projector = model.model.multi_modal_projector
    for linear in (projector.linear_1, projector.linear_2):
        torch.nn.init.normal_(linear.weight)
    return model


def asked(*rows: list[int], images: int = 0, videos: int = 0) -> Inputs:
    inputs = padded([[1, 2, *row, 3, 4, 5] for row in rows])
    if images:
        inputs["pixel_values"] = pixels(images, TILES)
    if videos:
        inputs["pixel_values_videos"] = pixels(videos, FRAMES, seed=2)
    return inputs


def image() -> Inputs:
    return asked(ONE, images=1)


def images() -> Inputs:
    return asked([*ONE, 6, *ONE], images=2)


def video() -> Inputs:
    return asked(FILM, videos=1)


def both() -> Inputs:
    return asked([*FILM, *ONE], images=1, videos=1)


def text() -> Inputs:
    return asked([6, 7])


def ragged() -> Inputs:
    return asked(ONE, [*FILM, *FILM, 6, 7], [*ONE, *FILM], [6], images=2, videos=3)


def unmixed(model: Any) -> None:
    local(model, ("vision_tower",))


def probes(model: Any, inputs: Inputs) -> Iterator[tuple[Inputs, int, Cell]]:
    """Disturb the frames of a video, or the views and tiles of two images."""
    if "pixel_values" not in inputs:
        places = [((0, frame), (0, frame, 0, 0)) for frame in range(FRAMES)]
        return disturbed(inputs, places, "pixel_values_videos")
    every = [(image, tile) for image in range(2) for tile in range(TILES)]
    return disturbed(inputs, [(where, (n, 0, 0, 0)) for n, where in enumerate(every)])


def write_checkpoint(directory: Path) -> None:
    """Write a tiny checkpoint of the family."""
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    size = {"height": SIZE, "width": SIZE}
    settings = patched.clip_settings("PerceptionLMVideoProcessor", **half, size=size)
    for name in ("merge_size", "patch_size", "temporal_patch_size"):
        del settings[name]
    image = {**settings, "image_processor_type": "PerceptionLMImageProcessor"}
    image |= {"tile_size": SIZE, "max_num_tiles": 4, "vision_input_type": "thumb+tile"}
    del image["video_processor_type"], image["return_metadata"], image["size"]
    processor = {
        "processor_class": "PerceptionLMProcessor",
        "image_processor": image,
        "video_processor": settings,
        "patch_size": PATCH,
        "pooling_ratio": 2,
    }
    made = patched.tokenizer(SPECIAL, TEMPLATE, named=NAMED)
    write(directory, tiny_perception_lm(), made, processor)


def hf_inputs(
    directory: Path, frames: Tensor, question: str, times: Sequence[float]
) -> dict[str, Any]:
    """Return what transformers' own processor makes of a clip."""
    return transformers_inputs(directory, frames, question, times)


CASES = (
    FamilyCase(
        "perception_lm",
        PerceptionLM(),
        tiny_perception_lm,
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
