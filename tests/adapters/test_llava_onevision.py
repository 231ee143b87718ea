"""Where LLaVA-OneVision's visual tokens sit: counted by hand, and against the model itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tokenreduce
from tests.adapters.families import llava_onevision as family
from tests.adapters.llavas import cells
from tokenreduce.errors import AdapterError
from tokenreduce.layout import Layout, Role
from tokenreduce.testing.tiny import (
    IMAGE,
    PER_FRAME,
    VIDEO,
    batch,
    ragged,
    single,
    tiny_onevision,
    video_ids,
)
from tokenreduce_model_adapters.llava_onevision import LlavaOnevision
from tokenreduce_plugins.fastv import FastV

BASE = 4 * 4  # tokens of an image's base view


def layout_of(model: Any, inputs: dict[str, Any]) -> Layout:
    return LlavaOnevision().layout(model, inputs)


def test_one_video_by_hand():
    inputs = batch([[1, 2, *video_ids(2), 5]], 1, 2)
    assert cells(layout_of(tiny_onevision(), inputs)) == [
        (Role.TEXT, -1, -1, -1, -1),
        (Role.TEXT, -1, -1, -1, -1),
        (Role.GRID, 0, 0, 0, 0),
        (Role.GRID, 0, 0, 0, 1),
        (Role.GRID, 0, 0, 1, 0),
        (Role.GRID, 0, 0, 1, 1),
        (Role.GRID, 0, 1, 0, 0),
        (Role.GRID, 0, 1, 0, 1),
        (Role.GRID, 0, 1, 1, 0),
        (Role.GRID, 0, 1, 1, 1),
        (Role.NEWLINE, 0, -1, -1, -1),
        (Role.TEXT, -1, -1, -1, -1),
    ]


def test_padding_two_videos_and_none():
    layout = layout_of(tiny_onevision(), ragged(2))
    roles = layout.role.tolist()
    width = 2 * PER_FRAME
    assert roles[2] == [Role.PAD] * 21 + [Role.TEXT] * 4
    assert roles[0] == (
        [Role.PAD] * 10 + [0] * 3 + [Role.GRID] * width + [Role.NEWLINE] + [Role.TEXT] * 3
    )
    assert layout.item[1].max() == 1
    assert (layout.item[1] == 1).sum() == width + 1


def test_an_image_among_several_is_its_base_view_and_one_newline():
    layout = layout_of(tiny_onevision(), family.images())
    for item, start in ((0, 1), (1, 1 + BASE + 2)):
        assert cells(layout)[start : start + BASE + 1] == [
            *((Role.GRID, item, 0, row, column) for row in range(4) for column in range(4)),
            (Role.NEWLINE, item, -1, -1, -1),
        ]


def test_videos_that_touch_are_told_apart_by_the_pixels():
    inputs = batch([[1, *video_ids(2), *video_ids(2), 5]], 2, 2)
    layout = layout_of(tiny_onevision(), inputs)
    assert layout.item[0].tolist() == [-1] + [0] * 9 + [1] * 9 + [-1]


def image_inputs(
    rows: list[list[int]], sizes: list[tuple[int, int]], **extra: Any
) -> dict[str, Any]:
    return {**batch(rows, 0, 0), "image_sizes": torch.tensor(sizes), **extra}


# Height, width -> rows and columns of the high-resolution view, by hand: the best tiling of 32 px
# tiles, 4 x 4 tokens each, less the padding around the picture.
GRIDS = [
    ((32, 32), (4, 4)),
    ((64, 32), (8, 4)),
    ((32, 64), (4, 8)),
    (
        (60, 20),
        (8, 2),
    ),  # 64 x 32 tiles; width 20 * 64 / 60 = 21.3 px = 2.7 of 4 columns, 2 after trim
]


@pytest.mark.parametrize(("size", "grid"), GRIDS)
def test_a_lone_image_has_a_base_view_and_rows_with_newlines(size, grid):
    model = tiny_onevision()
    rows, columns = grid
    count = BASE + rows * (columns + 1)
    layout = layout_of(model, image_inputs([[1, *[IMAGE] * count, 5]], [size]))
    roles = layout.role[0].tolist()
    assert roles == [0] + [1] * BASE + ([1] * columns + [int(Role.NEWLINE)]) * rows + [0]
    view = [c[1:] for c in cells(layout) if c[0] == Role.GRID][BASE:]
    assert view == [(0, 1, r, c) for r in range(rows) for c in range(columns)]


@pytest.mark.parametrize("size", [size for size, _ in GRIDS])
def test_image_token_counts_are_the_models_own(size):
    model = tiny_onevision()
    pixels = torch.randn(1, 3, 3, 32, 32)
    with torch.no_grad():
        (features,) = model.get_image_features(pixels, torch.tensor([size])).pooler_output
    layout = layout_of(model, image_inputs([[1, *[IMAGE] * len(features), 5]], [size]))
    assert (layout.role[0] > 0).sum() == len(features)
    newline = model.model.image_newline
    own = [torch.equal(feature, newline) for feature in features]
    assert own == (layout.role[0][1:-1] == int(Role.NEWLINE)).tolist()


def test_grid_tokens_are_where_the_model_puts_video_features():
    """Mark every feature with its frame and cell, and find it in the embeddings."""
    model, inputs = tiny_onevision(), ragged(3)
    marks = torch.zeros(3, 3 * PER_FRAME + 1, 32)
    for video in range(3):
        for token in range(3 * PER_FRAME):
            frame, cell = divmod(token, PER_FRAME)
            marks[video, token, :4] = torch.tensor([video, frame, *divmod(cell, 2)]) + 1000.0
    seen: list[torch.Tensor] = []
    hook = model.get_decoder().layers[0].register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    features = BaseModelOutputWithPooling(pooler_output=marks)
    rest = {k: v for k, v in inputs.items() if k != "pixel_values_videos"}
    with torch.no_grad():
        model(**rest, mm_encoder_outputs={"video": features})
    hook.remove()
    layout = layout_of(model, {**rest, "mm_encoder_outputs": {"video": features}})
    first_video = [0, 1, 3]
    for sample in range(3):
        for position, (role, item, frame, row, column) in enumerate(cells(layout, sample)):
            value = seen[0][sample, position, :4] - 1000
            if role == Role.GRID:
                assert value.tolist() == [first_video[sample] + item, frame, row, column]


def test_images_and_videos_are_reduced_through_generate_with_beams():
    model = tiny_onevision()
    image = BASE + 4 * 5
    row = [1, *[IMAGE] * image, 2, *video_ids(2), 5, 6]
    inputs = image_inputs([row, [7, *row]], [(32, 32), (32, 32)])
    inputs["pixel_values"] = torch.randn(2, 2, 3, 32, 32)
    inputs["pixel_values_videos"] = torch.randn(2, 2, 3, 32, 32)
    for beams in (1, 2):
        with torch.no_grad(), tokenreduce.reduce(model, FastV()) as run:
            model.generate(**inputs, max_new_tokens=3, num_beams=beams, do_sample=False)
        assert run.trace.visual_tokens == (BASE + 16 + 8,) * 2 * beams
        assert run.trace.tokens_per_layer[0][-1] == 20
        assert {cell[0] for cell in run.trace.events[0].kept} == {0, 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1, *[VIDEO] * 8, 2], r"part 2 of 2 .* is 1 placeholders .* but there are 0"),
        ([1, *[VIDEO] * 7, 2], r"part 1 of 2 .* is 8 placeholders .* but there are 7"),
        ([1, *[VIDEO] * 10, 2], r"part 1 of 2 .* video 1 is 8 placeholders"),
        ([1, *[IMAGE] * 5, 2], "describe fewer images"),
    ],
)
def test_runs_that_are_no_whole_grids_are_refused(row, message):
    with pytest.raises(AdapterError, match=message):
        layout_of(tiny_onevision(), batch([row], 1, 2))


def test_placeholders_without_a_video_are_refused():
    with pytest.raises(AdapterError, match="describe fewer"):
        layout_of(tiny_onevision(), batch([[1, *video_ids(2), 2]], 0, 0))


def test_an_encoded_video_is_not_encoded_again_and_images_stay_pixels():
    model = tiny_onevision()
    encoded = LlavaOnevision().encode_video(model, single())
    assert encoded.keys() == {"input_ids", "attention_mask", "mm_encoder_outputs"}
    inputs = image_inputs([[1, *[IMAGE] * (BASE + 4 * 5), 2, *video_ids(2), 5]], [(32, 32)])
    inputs |= {"pixel_values": torch.randn(1, 2, 3, 32, 32)}
    inputs |= {"pixel_values_videos": torch.randn(1, 2, 3, 32, 32)}
    assert LlavaOnevision().encode_video(model, inputs).keys() == inputs.keys()
