"""GLM-4.1V and GLM-4.6V: tokens counted by hand, prompts written by hand, hazards."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.adapters.families.glm4v import (
    BEGIN_VIDEO,
    END_VIDEO,
    PROMPTS,
    SPECIAL,
    TEMPLATE,
    tiny_glm4v,
)
from tests.adapters.patched import BEGIN, END, IMAGE, VIDEO, tokenizer
from tokenreduce.errors import AdapterError
from tokenreduce.layout import Role
from tokenreduce.patches import PatchPreprocessor
from tokenreduce_model_adapters.glm4v import Glm4v, Glm4vProcessor

TEXT = (Role.TEXT, -1, -1, -1, -1)
SMALL = PatchPreprocessor(least=64, most=4096, budget="clip", patch=4)


def cells(row: list[int], **grids: Any) -> list[Any]:
    ids = torch.tensor([row])
    inputs = {"input_ids": ids, "mm_token_type_ids": 0 * ids, **grids}
    layout = Glm4v().layout(tiny_glm4v(), inputs)
    names = ("role", "item", "frame", "row", "column")
    return list(zip(*(getattr(layout, name)[0].tolist() for name in names), strict=True))


def test_two_images_by_hand() -> None:
    row = [1, BEGIN, *[IMAGE] * 3, END, BEGIN, *[IMAGE] * 2, END, 2]
    assert cells(row, image_grid_thw=torch.tensor([[1, 2, 6], [1, 4, 2]])) == [
        *[TEXT] * 2,
        (Role.GRID, 0, 0, 0, 0),
        (Role.GRID, 0, 0, 0, 1),
        (Role.GRID, 0, 0, 0, 2),
        *[TEXT] * 2,
        (Role.GRID, 1, 0, 0, 0),
        (Role.GRID, 1, 0, 1, 0),
        *[TEXT] * 2,
    ]


def test_the_frames_of_a_video_are_one_item_by_hand() -> None:
    """Image tokens in groups, and behind each group its end token and a time of one or two."""
    groups = [BEGIN, *[IMAGE] * 4, END, 3, BEGIN, *[IMAGE] * 4, END, 1, 2]
    row = [9, BEGIN_VIDEO, *groups, END_VIDEO, 8]
    assert cells(row, video_grid_thw=torch.tensor([[2, 4, 4]])) == [
        *[TEXT] * 3,
        (Role.GRID, 0, 0, 0, 0),
        (Role.GRID, 0, 0, 0, 1),
        (Role.GRID, 0, 0, 1, 0),
        (Role.GRID, 0, 0, 1, 1),
        *[TEXT] * 3,
        (Role.GRID, 0, 1, 0, 0),
        (Role.GRID, 0, 1, 0, 1),
        (Role.GRID, 0, 1, 1, 0),
        (Role.GRID, 0, 1, 1, 1),
        *[TEXT] * 5,
    ]


def test_images_beside_videos_are_refused_as_the_model_itself_does() -> None:
    inputs, model = PROMPTS.both(), tiny_glm4v()
    with pytest.raises(ValueError, match="do not match"):
        model(**inputs)
    with pytest.raises(AdapterError, match="1 images and 1 videos were given together"):
        Glm4v().layout(model, inputs)


FRAMES = torch.zeros(3, 16, 16, 3, dtype=torch.uint8)  # two groups of 2 x 2 tokens


@pytest.mark.parametrize(
    ("kind", "times"),
    [("Glm4v", ("0", "3")), ("Glm46V", ("0.9 seconds", "3.9 seconds"))],
)
def test_prompts_by_hand(kind: str, times: tuple[str, str]) -> None:
    """A group's time is its first frame's, cut to whole seconds in GLM-4.1V."""
    made = tokenizer(SPECIAL, TEMPLATE)
    processor = Glm4vProcessor(made, SMALL, tiny_glm4v(kind).config)
    inputs = processor.video_inputs(FRAMES, "this", [0.9, 2.0, 3.9])
    pads = "<|begin_of_image|>" + "<|image|>" * 4 + "<|end_of_image|>"
    expected = (
        f"<|user|>\n<|begin_of_video|>{pads}{times[0]}{pads}{times[1]}<|end_of_video|>this"
        "<|assistant|>\n"
    )
    assert "".join(made.convert_ids_to_tokens(inputs["input_ids"][0])) == expected
    types = inputs["mm_token_type_ids"]
    assert torch.equal(types, 2 * (inputs["input_ids"] == IMAGE).long())
    assert int(types.sum()) == 2 * 8
    assert not (inputs["input_ids"] == VIDEO).any()
    assert inputs["video_grid_thw"].tolist() == [[2, 4, 4]]


def test_frames_are_sampled_as_the_family_was_made_for() -> None:
    assert (Glm4vProcessor.frames, Glm4vProcessor.sampling) == (600, "fps:2")
