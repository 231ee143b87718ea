"""LLaVA-1.5 and ViP-LLaVA: squares of tokens, counted by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PixtralVisionConfig, SiglipVisionConfig

from tests.adapters import test_families
from tests.adapters.families import llava, vipllava
from tests.adapters.family import FamilyCase, Inputs, noise, padded
from tests.adapters.llavas import (
    IMAGE,
    PAD,
    PATCH,
    SIZE,
    TEXT,
    cells,
    class_token,
    clip,
    grid,
    squares,
    tiny,
)
from tokenreduce.errors import AdapterError
from tokenreduce_model_adapters.llava import Llava
from tokenreduce_model_adapters.vipllava import VipLlava

SMALL = 16  # pixels: 2 x 2 tokens
FOUR = [IMAGE] * 4
FAMILIES = [(Llava(), "Llava"), (VipLlava(), "VipLlava")]


def square(item: int) -> list[tuple[int, ...]]:
    return [grid(item, 0, 0, 0), grid(item, 0, 0, 1), grid(item, 0, 1, 0), grid(item, 0, 1, 1)]


def small(prefix: str) -> Any:
    return tiny(prefix, vision_config=clip(image_size=SMALL), vision_feature_layer=-2)


@pytest.mark.parametrize(("adapter", "prefix"), FAMILIES)
def test_images_by_hand(adapter: Any, prefix: str) -> None:
    rows = [[1, *FOUR, 5], [1, *FOUR, *FOUR, 2, *FOUR, 5], [1, 2]]
    inputs = {**padded(rows), "pixel_values": noise(4, 3, SMALL, SMALL)}
    layout = adapter.layout(small(prefix), inputs)
    assert cells(layout, 0) == [PAD] * 9 + [TEXT, *square(0), TEXT]
    assert cells(layout, 1) == [TEXT, *square(0), *square(1), TEXT, *square(2), TEXT]
    assert cells(layout, 2) == [PAD] * 13 + [TEXT, TEXT]


@pytest.mark.parametrize(("adapter", "prefix"), FAMILIES)
def test_encoded_images_are_laid_out_as_their_pixels(adapter: Any, prefix: str) -> None:
    model, inputs = small(prefix), padded([[1, *FOUR, 5]])
    pixels = noise(1, 3, SMALL, SMALL)
    encoded = {"image": model.model.get_image_features(pixels, return_dict=True)}
    layout = adapter.layout(model, {**inputs, "mm_encoder_outputs": encoded})
    assert cells(layout) == [TEXT, *square(0), TEXT]


def test_the_placeholder_is_the_models_own() -> None:
    model = tiny("Llava", vision_config=clip(image_size=SMALL), image_token_index=77)
    inputs = {**padded([[1, IMAGE, 77, 77, 77, 77]]), "pixel_values": noise(1, 3, SMALL, SMALL)}
    assert cells(Llava().layout(model, inputs)) == [TEXT, TEXT, *square(0)]


@pytest.mark.parametrize(("adapter", "prefix"), FAMILIES)
@pytest.mark.parametrize(
    ("ids", "images", "message"),
    [
        ([1, *FOUR[:3], 2], 1, "is 4 placeholders .* but there are 3"),
        ([1, *FOUR, IMAGE, 2], 1, "image or video 1 is 4 placeholders .* but there are 1"),
        ([1, *FOUR, 2], 0, "describe fewer images"),
    ],
)
def test_other_numbers_of_placeholders_are_refused(
    adapter: Any, prefix: str, ids: list[int], images: int, message: str
) -> None:
    pixels = {"pixel_values": noise(images, 3, SMALL, SMALL)} if images else {}
    with pytest.raises(AdapterError, match=message):
        adapter.layout(small(prefix), {**padded([ids]), **pixels})


FULL = [IMAGE] * 17  # the class token of CLIP and 4 x 4


def full() -> Any:
    return tiny("Llava", vision_feature_select_strategy="full")


def full_inputs() -> Inputs:
    return squares([[1, 2, *FULL, *FULL, 3, *FULL, 4]], 3)


def test_the_full_strategy_keeps_clips_class_token() -> None:
    found = cells(Llava().layout(full(), full_inputs()))
    assert [n for n, cell in enumerate(found) if cell[0] == 3] == [2, 19, 37]
    assert found[2:4] == [class_token(0), grid(0, 0, 0, 0)]
    assert found[18:20] == [grid(0, 0, 3, 3), class_token(1)]


def siglip() -> Any:
    vision = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=PATCH,
    )
    strategy = {"vision_feature_select_strategy": "full", "vision_feature_layer": -1}
    return tiny("Llava", vision_config=vision, **strategy)


def variants() -> list[FamilyCase]:
    (case,) = llava.CASES
    prompts = {**case.prompts, "images": full_inputs}
    return [
        replace(case, name="clip-full", model=full, prompts=prompts),
        replace(case, name="siglip", model=siglip),
    ]


@pytest.mark.parametrize("case", variants(), ids=lambda case: case.name)
def test_towers_with_and_without_class_token(case: FamilyCase) -> None:
    """Class tokens are no cells, and SigLIP, which has none, fills its square."""
    test_families.test_cells_are_where_their_pixels_are(case, "images")
    test_families.test_features_are_found_where_the_layout_says(case, "images")
    test_families.test_dropping_and_merging_equal_the_oracle(case, "images")


@pytest.mark.parametrize(
    ("config", "claimed"),
    [
        ({"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]}, True),
        ({"model_type": "llava"}, True),
        ({"model_type": "llava", "architectures": None}, True),
        ({"model_type": "llava", "architectures": ["PllavaForConditionalGeneration"]}, False),
        ({"model_type": "llava_next"}, False),
    ],
)
def test_pllava_is_left_to_its_own_adapter(config: dict[str, Any], claimed: bool) -> None:
    assert Llava.claims(config) is claimed


def test_vip_llava_joins_layers_of_its_tower_into_one_token() -> None:
    """Features of two layers make a token twice as wide, not twice the tokens."""
    model = vipllava.tiny_vipllava()
    with torch.no_grad():
        features = model.model.get_image_features(noise(1, 3, SIZE, SIZE)).pooler_output
    assert features.shape == (1, 16, 32)
    assert model.model.multi_modal_projector.linear_1.in_features == 2 * 16


def test_pixtrals_rows_under_the_same_type_are_refused() -> None:
    """A tower of any image size, with a break token (9) between rows: the model itself runs."""
    vision = PixtralVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=PATCH,
    )
    strategy = {"vision_feature_select_strategy": "full", "vision_feature_layer": -1}
    model = tiny("Llava", vision_config=vision, **strategy)
    inputs = padded([[1, IMAGE, IMAGE, 9, IMAGE, IMAGE, 9, 2]])
    inputs |= {"pixel_values": noise(1, 3, 16, 16), "image_sizes": torch.tensor([[16, 16]])}
    with torch.no_grad():
        model(**inputs)
    with pytest.raises(AdapterError, match=r"is 16 placeholders .* but there are 2"):
        Llava().layout(model, inputs)
