"""VideoLLaMA3: tokens counted by hand, prompts written by hand, hazards."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.adapters.families.video_llama_3 import PROMPTS, tiny_video_llama_3
from tests.adapters.patched import IMAGE, SPECIAL, TEMPLATE, VIDEO, tokenizer
from tokenreduce.errors import AdapterError
from tokenreduce.layout import Role
from tokenreduce.patches import PatchPreprocessor
from tokenreduce.testing.adapter_checks import EverySecond
from tokenreduce.testing.oracle import attach, check_against_oracle
from tokenreduce_model_adapters.video_llama_3 import VideoLlama3, VideoLlama3Processor

TEXT = (Role.TEXT, -1, -1, -1, -1)


def cells(row: list[int], **sizes: Any) -> list[Any]:
    inputs = {"input_ids": torch.tensor([row]), **sizes}
    layout = VideoLlama3().layout(tiny_video_llama_3(), inputs)
    names = ("role", "item", "frame", "row", "column")
    return list(zip(*(getattr(layout, name)[0].tolist() for name in names), strict=True))


def test_images_have_merge_sizes_of_their_own_by_hand() -> None:
    row = [1, *[IMAGE] * 2, 3, *[IMAGE] * 4, 2]
    sizes = {
        "image_grid_thw": torch.tensor([[1, 2, 4], [1, 2, 2]]),
        "image_merge_sizes": torch.tensor([2, 1]),
    }
    assert cells(row, **sizes) == [
        TEXT,
        (Role.GRID, 0, 0, 0, 0),
        (Role.GRID, 0, 0, 0, 1),
        TEXT,
        (Role.GRID, 1, 0, 0, 0),
        (Role.GRID, 1, 0, 0, 1),
        (Role.GRID, 1, 0, 1, 0),
        (Role.GRID, 1, 0, 1, 1),
        TEXT,
    ]


def test_an_image_behind_a_video_by_hand() -> None:
    """A time in front of each frame, and a comma between."""
    row = [18, 1, *[VIDEO] * 2, 14, 18, 2, *[VIDEO] * 2, 7, *[IMAGE] * 1, 3]
    sizes = {
        "video_grid_thw": torch.tensor([[2, 2, 4]]),
        "video_merge_sizes": torch.tensor([2]),
        "image_grid_thw": torch.tensor([[1, 2, 2]]),
        "image_merge_sizes": torch.tensor([2]),
    }
    assert cells(row, **sizes) == [
        *[TEXT] * 2,
        (Role.GRID, 0, 0, 0, 0),
        (Role.GRID, 0, 0, 0, 1),
        *[TEXT] * 3,
        (Role.GRID, 0, 1, 0, 0),
        (Role.GRID, 0, 1, 0, 1),
        TEXT,
        (Role.GRID, 1, 0, 0, 0),
        TEXT,
    ]


def test_the_familys_own_pruning_is_refused() -> None:
    model, inputs = tiny_video_llama_3(), PROMPTS.video()
    kept = torch.ones(12, dtype=torch.bool)
    reducer = EverySecond(layers=(0,))
    told = {**inputs, "video_compression_mask": kept}
    check_against_oracle(model, [reducer], told, new=2, adapter=VideoLlama3())
    row = [18, *[VIDEO] * 4, 14, 18, *[VIDEO] * 3, 14, 18, *[VIDEO] * 4, 2, 3]
    kept[5] = False
    told = {**PROMPTS.prompt([row], videos=[(3, 4, 4)]), "video_compression_mask": kept}
    model.generate(**told, max_new_tokens=2)
    with (
        attach(model, [reducer], VideoLlama3()),
        pytest.raises(AdapterError, match=r"kept 11 of 12 video tokens, .*use_token_compression"),
    ):
        model.generate(**told, max_new_tokens=2)


def test_prompts_by_hand() -> None:
    """Every frame has its own time, and is a grid of its own even if it equals the one before."""
    made = tokenizer(SPECIAL, TEMPLATE)
    preprocess = PatchPreprocessor(least=64, most=1024, budget="share", patch=4, temporal=1)
    frames = torch.zeros(3, 16, 16, 3, dtype=torch.uint8)
    inputs = VideoLlama3Processor(made, preprocess, VIDEO).video_inputs(
        frames, "this", [0.0, 0.75, 12.0]
    )
    pads = "<|video_pad|>" * 4
    expected = (
        f"<|im_start|>user\n<|vision_start|>Time 0.0s:{pads},Time 0.8s:{pads},Time 12.0s:{pads}"
        "<|vision_end|>this<|im_end|>\n<|im_start|>assistant\n"
    )
    assert "".join(made.convert_ids_to_tokens(inputs["input_ids"][0])) == expected
    assert inputs["video_grid_thw"].tolist() == [[3, 4, 4]]
    assert inputs["video_merge_sizes"].tolist() == [2]
    assert inputs["video_compression_mask"].tolist() == [True] * 12
    assert inputs["pixel_values_videos"].shape == (48, 3 * 4 * 4)
    assert "mm_token_type_ids" not in inputs


def test_frames_are_sampled_as_the_family_was_made_for() -> None:
    assert (VideoLlama3Processor.frames, VideoLlama3Processor.sampling) == (180, "fps:1")
