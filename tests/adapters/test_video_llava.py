"""Video-LLaVA: a class token before each frame, counted by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.adapters.families.video_llava import CLIP, FRAMES, both, tiny_video_llava, video
from tests.adapters.family import Inputs, noise, padded
from tests.adapters.llavas import IMAGE, PAD, TEXT, VIDEO, cells, class_token, clip, grid, tiny
from tokenreduce.api import reduce
from tokenreduce.errors import AdapterError
from tokenreduce.layout import Role
from tokenreduce.testing.adapter_checks import EverySecond
from tokenreduce.testing.oracle import check_against_oracle
from tokenreduce_model_adapters.video_llava import VideoLlava
from tokenreduce_plugins.vtw import Vtw

SMALL = 16  # pixels: 2 x 2 tokens, and a class token in videos
TWO = [VIDEO] * 10  # a video of two frames


def small(**settings: Any) -> Any:
    return tiny("VideoLlava", vision_config=clip(image_size=SMALL), **settings)


def layout_of(model: Any, inputs: Inputs) -> Any:
    return VideoLlava().layout(model, inputs)


def inputs_of(rows: list[list[int]], videos: int = 0, images: int = 0) -> Inputs:
    inputs = padded(rows)
    if videos:
        inputs["pixel_values_videos"] = noise(videos, 2, 3, SMALL, SMALL)
    if images:
        inputs["pixel_values"] = noise(images, 3, SMALL, SMALL)
    return inputs


def square(item: int, frame: int) -> list[tuple[int, ...]]:
    return [grid(item, frame, row, column) for row in range(2) for column in range(2)]


def frames(item: int) -> list[tuple[int, ...]]:
    return [class_token(item), *square(item, 0), class_token(item), *square(item, 1)]


def test_a_video_by_hand() -> None:
    found = cells(layout_of(small(), inputs_of([[1, *TWO, 5]], 1)))
    assert found == [
        (Role.TEXT, -1, -1, -1, -1),
        (Role.CLS, 0, -1, -1, -1),
        (Role.GRID, 0, 0, 0, 0),
        (Role.GRID, 0, 0, 0, 1),
        (Role.GRID, 0, 0, 1, 0),
        (Role.GRID, 0, 0, 1, 1),
        (Role.CLS, 0, -1, -1, -1),
        (Role.GRID, 0, 1, 0, 0),
        (Role.GRID, 0, 1, 0, 1),
        (Role.GRID, 0, 1, 1, 0),
        (Role.GRID, 0, 1, 1, 1),
        (Role.TEXT, -1, -1, -1, -1),
    ]


def test_videos_and_images_that_touch_beside_padding() -> None:
    rows = [[1, *TWO, *TWO, *[IMAGE] * 4, 5], [1, *[IMAGE] * 4, 6], [1, 2]]
    layout = layout_of(small(), inputs_of(rows, 2, 2))
    assert cells(layout, 0) == [TEXT, *frames(0), *frames(1), *square(2, 0), TEXT]
    assert cells(layout, 1) == [PAD] * 20 + [TEXT, *square(0, 0), TEXT]
    assert cells(layout, 2) == [PAD] * 24 + [TEXT, TEXT]


def test_the_full_strategy_keeps_the_class_token_of_images_too() -> None:
    model = small(vision_feature_select_strategy="full")
    inputs = inputs_of([[1, *TWO, 2, *[IMAGE] * 5]], 1, 1)
    found = cells(layout_of(model, inputs))
    assert found == [TEXT, *frames(0), TEXT, class_token(1), *square(1, 0)]
    with torch.no_grad():
        model(**inputs)  # the model itself counts the placeholders


@pytest.mark.parametrize("count", [9, 11])
def test_videos_that_are_no_whole_frames_are_refused(count: int) -> None:
    with pytest.raises(AdapterError, match="placeholders"):
        layout_of(small(), inputs_of([[1, *[VIDEO] * count]], 1))


@pytest.mark.parametrize("token", [VIDEO, IMAGE])
def test_placeholders_without_pixels_are_refused(token: int) -> None:
    with pytest.raises(AdapterError, match="describe fewer"):
        layout_of(small(), inputs_of([[1, *[token] * 20, 5]]))


def test_encoded_videos_say_how_many_frames_they_have() -> None:
    model, inputs = small(), inputs_of([[1, *TWO, *TWO, 5]], 2)
    encoded = VideoLlava().encode_video(model, inputs)
    assert encoded.keys() == {"input_ids", "attention_mask", "mm_encoder_outputs"}
    assert cells(layout_of(model, encoded)) == [TEXT, *frames(0), *frames(1), TEXT]


def test_features_of_frames_alone_are_refused_since_their_videos_are_unknown() -> None:
    model, inputs = small(), inputs_of([[1, *TWO, *TWO, 5]], 2)
    pixels = inputs.pop("pixel_values_videos")
    encoded = {"video": model.model.get_video_features(pixels, return_dict=True)}
    with pytest.raises(AdapterError, match="features of 4 frames do not say which"):
        layout_of(model, {**inputs, "mm_encoder_outputs": encoded})


def test_class_tokens_stay_until_all_cells_are_gone() -> None:
    """VTW takes all visual tokens away after a layer: class tokens are not left behind."""
    model, inputs = tiny_video_llava(), video()
    with torch.no_grad(), reduce(model, Vtw(layer=2)) as run:
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert run.trace.visual_tokens == (FRAMES * 16,)
    prompt = inputs["input_ids"].shape[1]
    held = [len(layer[0]) for layer in run.trace.kept_positions()]
    assert held == [prompt] * 3 + [prompt - len(CLIP)] * 3


def test_images_may_have_the_name_that_their_own_processor_gives_them() -> None:
    model, adapter = tiny_video_llava(), VideoLlava()
    inputs = both()
    renamed = {**inputs, "pixel_values_images": inputs["pixel_values"]}
    del renamed["pixel_values"]
    assert cells(adapter.layout(model, renamed)) == cells(adapter.layout(model, inputs))
    assert adapter.encode_video(model, renamed).keys() == renamed.keys()
    reducer = EverySecond(layers=(1,))
    run = check_against_oracle(model, [reducer], renamed, new=3, adapter=adapter)
    assert run.trace.visual_tokens == (FRAMES * 16 + 16,)
