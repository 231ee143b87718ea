"""Idefics3."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from tests.adapters import patched
from tests.adapters.family import Cell, FamilyCase, Inputs, ready
from tests.adapters.llavas import PATCH, SIZE, llama
from tests.adapters.tiled import SIDE, TILE, disturbed, pixels, prompt
from tokenreduce_model_adapters.idefics3 import Idefics3

IMAGE, BRACKET = 120, 122
SPECIAL = {
    IMAGE: "<image>",
    121: "<video>",
    BRACKET: "<fake_token_around_image>",
    123: "<global-img>",
    124: "<end_of_utterance>",
}
WORDS = (
    *("what", "is", "this", "User", "Assistant", "row", "col", "Image", "Frame", "from", "frames"),
    *("You", "are", "provided", "the", "following", "series", "of", "a", "video"),
)
OUT = "<fake_token_around_image>"


def tokenizer() -> Any:
    """Return a tokenizer to which markers of tiles are several tokens."""
    return patched.tokenizer(SPECIAL, None, words=WORDS)


def tiny(prefix: str) -> Any:
    """Return a random Idefics3 or SmolVLM of six layers."""
    import transformers

    torch.manual_seed(0)
    vision = getattr(transformers, f"{prefix}VisionConfig")(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=PATCH,
        initializer_range=0.3,
    )
    config = getattr(transformers, f"{prefix}Config")(
        vision_config=vision, text_config=llama(), image_token_id=IMAGE, scale_factor=2
    )
    model = ready(getattr(transformers, f"{prefix}ForConditionalGeneration")(config))
    torch.nn.init.normal_(model.model.connector.modality_projection.proj.weight)
    return model


def tiny_idefics3() -> Any:
    return tiny("Idefics3")


def view() -> str:
    return f"{OUT}<global-img>" + "<image>" * TILE + OUT


def picture(rows: int, columns: int) -> str:
    """Return an image of some rows and columns of tiles."""
    lines = (
        "".join(
            f"{OUT}<row_{row + 1}_col_{column + 1}>" + "<image>" * TILE for column in range(columns)
        )
        for row in range(rows)
    )
    return "".join(f"{line}\n" for line in lines) + "\n" + view()


def asked(*texts: str, tiles: list[int]) -> Inputs:
    """Return prompts with the given numbers of tiles; missing ones are black, as processors do."""
    inputs = prompt(tokenizer(), *(f"User:{text}what is this<end_of_utterance>" for text in texts))
    if any(tiles):
        found = pixels(len(tiles), max(tiles))
        for sample, count in enumerate(tiles):
            found[sample, count:] = 0
        inputs["pixel_values"] = found
    return inputs


def image() -> Inputs:
    return asked(picture(2, 3), tiles=[7])


def images() -> Inputs:
    return asked(picture(1, 2) + view() + view() + picture(2, 1), tiles=[3 + 2 + 3])


def text() -> Inputs:
    return asked("", tiles=[0])


def ragged() -> Inputs:
    return asked(picture(2, 2), view() + picture(1, 2), "", view(), tiles=[5, 4, 0, 1])


def unmixed(model: Any) -> None:
    for layer in model.model.vision_model.encoder.layers:
        torch.nn.init.zeros_(layer.self_attn.out_proj.weight)


def probes(model: Any, inputs: Inputs) -> Iterator[tuple[Inputs, int, Cell]]:
    """Disturb an image of two rows of three tiles, or the four images."""
    if inputs["pixel_values"].shape[1] == 7:
        cut = [(row, column) for row in range(2) for column in range(3)]
        places = [(0, 0, SIDE * row, SIDE * column) for row, column in cut] + [(0, 1, 0, 0)]
    else:
        places = [(0, 0, 0, 0), (0, 0, 0, SIDE), (0, 1, 0, 0), (1, 0, 0, 0), (2, 0, 0, 0)]
        places += [(3, 0, 0, 0), (3, 0, SIDE, 0), (3, 1, 0, 0)]
    return disturbed(inputs, [((0, tile), place) for tile, place in enumerate(places)])


CASES = (
    FamilyCase(
        "idefics3",
        Idefics3(),
        tiny_idefics3,
        {"image": image, "images": images, "text": text, "ragged": ragged},
        features=("get_image_features",),
        probes=probes,
        unmixed=unmixed,
        probed=("image", "images"),
    ),
)
