"""LLaVA-NeXT and LLaVA-NeXT-Video: tiles with newlines, frames without, counted by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.adapters.family import Inputs, noise, padded
from tests.adapters.llavas import IMAGE, PAD, TEXT, VIDEO, cells, clip, grid, newline, tiny
from tokenreduce.errors import AdapterError
from tokenreduce_model_adapters.llava_next import LlavaNext
from tokenreduce_model_adapters.llava_next_video import LlavaNextVideo

SMALL = 16  # pixels of a tile: 2 x 2 tokens
POINTS = [[16, 16], [32, 16], [16, 32]]
FAMILIES = [(LlavaNext(), "LlavaNext"), (LlavaNextVideo(), "LlavaNextVideo")]


def small(prefix: str, **settings: Any) -> Any:
    return tiny(prefix, **{"vision_config": clip(image_size=SMALL), **settings, **PINPOINTS})


PINPOINTS = {"image_grid_pinpoints": POINTS}


def images(rows: list[list[int]], *sizes: tuple[int, int]) -> Inputs:
    pixels = noise(len(sizes), 3, 3, SMALL, SMALL)
    return {**padded(rows), "pixel_values": pixels, "image_sizes": torch.tensor(sizes)}


def base(item: int) -> list[tuple[int, ...]]:
    return [grid(item, 0, 0, 0), grid(item, 0, 0, 1), grid(item, 0, 1, 0), grid(item, 0, 1, 1)]


def fine(item: int, rows: int, columns: int) -> list[tuple[int, ...]]:
    found = []
    for row in range(rows):
        found += [*(grid(item, 1, row, column) for column in range(columns)), newline(item)]
    return found


# Height and width in pixels -> rows and columns of the high-resolution view, by hand. A token is
# 8 px; the view is cut to the whole tokens that show the picture, as many on either side.
VIEWS = [
    ((16, 16), (2, 2)),
    ((30, 15), (4, 2)),  # two tiles, one above the other
    ((10, 40), (2, 4)),  # two tiles side by side; the picture is 1 of 2 tokens high: nothing is cut
    ((8, 64), (0, 4)),  # the picture is half a token high: one is cut above and one below
]


@pytest.mark.parametrize(("adapter", "prefix"), FAMILIES)
@pytest.mark.parametrize(("size", "view"), VIEWS)
def test_an_image_by_hand(
    adapter: Any, prefix: str, size: tuple[int, int], view: tuple[int, int]
) -> None:
    model = small(prefix)
    own = model.model.get_image_features(noise(1, 3, 3, SMALL, SMALL), torch.tensor([size]))
    (features,) = own.pooler_output
    ids = [1, *[IMAGE] * len(features), 5]
    found = cells(adapter.layout(model, images([ids], size)))
    assert found == [TEXT, *base(0), *fine(0, *view), TEXT]
    newlines = [torch.equal(feature, model.model.image_newline) for feature in features]
    assert newlines == [cell == newline(0) for cell in found[1:-1]]


@pytest.mark.parametrize(("adapter", "prefix"), FAMILIES)
def test_images_that_touch_beside_padding(adapter: Any, prefix: str) -> None:
    one, two = [IMAGE] * (4 + 6), [IMAGE] * (4 + 12)
    rows = [[1, *one, *two, 5], [1, *two], [1, 2]]
    layout = adapter.layout(small(prefix), images(rows, (16, 16), (30, 15), (30, 15)))
    first = [*base(0), *fine(0, 2, 2)]
    assert cells(layout, 0) == [TEXT, *first, *base(1), *fine(1, 4, 2), TEXT]
    assert cells(layout, 1) == [PAD] * 11 + [TEXT, *base(0), *fine(0, 4, 2)]
    assert cells(layout, 2) == [PAD] * 26 + [TEXT, TEXT]


@pytest.mark.parametrize(("adapter", "prefix"), FAMILIES)
def test_other_numbers_of_placeholders_are_refused(adapter: Any, prefix: str) -> None:
    model = small(prefix)
    with pytest.raises(AdapterError, match=r"part 4 of 5 .* is 2 placeholders .* but there are 1"):
        adapter.layout(model, images([[1, *[IMAGE] * 8, 5]], (16, 16)))
    with pytest.raises(AdapterError, match="at position 11, but the inputs describe fewer"):
        adapter.layout(model, images([[1, *[IMAGE] * 11, 5]], (16, 16)))
    with pytest.raises(AdapterError, match="describe fewer images"):
        adapter.layout(model, padded([[1, *[IMAGE] * 10, 5]]))


def videos(rows: list[list[int]], count: int, frames: int, size: int = 32) -> Inputs:
    return {**padded(rows), "pixel_values_videos": noise(count, frames, 3, size, size)}


def frame(item: int, number: int) -> list[tuple[int, ...]]:
    return [(*cell[:2], number, *cell[3:]) for cell in base(item)]


def test_a_video_and_an_image_by_hand() -> None:
    """4 x 4 patches are pooled to 2 x 2 tokens; nothing stands between frames, or after them."""
    model = tiny("LlavaNextVideo", image_grid_pinpoints=[[32, 32]])
    ids = [1, *[VIDEO] * 8, 2, *[IMAGE] * 36, 3]
    pixels = {"pixel_values": noise(1, 2, 3, 32, 32), "image_sizes": torch.tensor([[32, 32]])}
    found = cells(LlavaNextVideo().layout(model, {**videos([ids], 1, 2), **pixels}))
    assert found[:10] == [TEXT, *frame(0, 0), *frame(0, 1), TEXT]
    assert found[10:26] == [grid(1, 0, row, column) for row in range(4) for column in range(4)]
    assert found[26:] == [*fine(1, 4, 4), TEXT]


def test_videos_that_touch_beside_padding() -> None:
    rows = [[1, *[VIDEO] * 16, 5], [1, *[VIDEO] * 8], [1, 2]]
    layout = LlavaNextVideo().layout(tiny("LlavaNextVideo"), videos(rows, 3, 2))
    clips = [cell for item in (0, 1) for number in (0, 1) for cell in frame(item, number)]
    assert cells(layout, 0) == [TEXT, *clips, TEXT]
    assert cells(layout, 1) == [PAD] * 9 + [TEXT, *frame(0, 0), *frame(0, 1)]


@pytest.mark.parametrize("mode", ["average", "max"])
def test_the_stride_of_the_pooling_is_the_models(mode: str) -> None:
    """Of 4 x 4 patches a stride of 3 leaves one token, as of 3 x 3."""
    model = tiny("LlavaNextVideo", spatial_pool_stride=3, spatial_pool_mode=mode)
    inputs = videos([[1, *[VIDEO] * 2, 5]], 1, 2)
    found = cells(LlavaNextVideo().layout(model, inputs))
    assert found == [TEXT, grid(0, 0, 0, 0), grid(0, 1, 0, 0), TEXT]
    with torch.no_grad():
        model(**inputs)  # the model itself counts the placeholders


@pytest.mark.parametrize("count", [7, 9])
def test_videos_that_are_no_whole_frames_are_refused(count: int) -> None:
    with pytest.raises(AdapterError, match="is 8 placeholders"):
        LlavaNextVideo().layout(tiny("LlavaNextVideo"), videos([[1, *[VIDEO] * count]], 1, 2))


def test_a_video_is_encoded_once_and_images_beside_it_stay_pixels() -> None:
    model, adapter = tiny("LlavaNextVideo"), LlavaNextVideo()
    inputs = videos([[1, *[VIDEO] * 8, 2, *[VIDEO] * 8, 5]], 2, 2)
    encoded = adapter.encode_video(model, inputs)
    assert encoded.keys() == {"input_ids", "attention_mask", "mm_encoder_outputs"}
    assert cells(adapter.layout(model, encoded)) == cells(adapter.layout(model, inputs))
    beside = {**inputs, "pixel_values": noise(1, 2, 3, 32, 32)}
    assert adapter.encode_video(model, beside).keys() == beside.keys()
