"""Clips as patches: against loops, against arithmetic by hand, and against transformers' rules."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from transformers.models.glm4v.image_processing_pil_glm4v import smart_resize as clip_rule
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as frame_rule

from tests.adapters.patched import flat
from tokenreduce.errors import AdapterError
from tokenreduce.patches import HALF, PatchPreprocessor, by_frame, merged_grids
from tokenreduce.placement import Grid
from tokenreduce.preprocess import FramePreprocessor, Size

SMALL = PatchPreprocessor(least=256, most=2048, budget="frame", patch=4)


def clip(frames: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (frames, height, width, 3)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(("frames", "temporal"), [(4, 2), (5, 2), (3, 1), (4, 3)])
def test_patches_are_those_of_a_loop_and_the_last_frame_fills_its_group(
    frames: int, temporal: int
) -> None:
    preprocess = SMALL.model_copy(update={"temporal": temporal})
    found, size = preprocess(clip(frames, 24, 40))
    pixels = FramePreprocessor(
        size=Size(height=24, width=40), mean=preprocess.mean, std=preprocess.std
    )(clip(frames, 24, 40))
    groups = -(-frames // temporal)
    whole = [pixels[min(n, frames - 1)] for n in range(groups * temporal)]
    cut = [torch.stack(whole[n * temporal : (n + 1) * temporal]) for n in range(groups)]
    assert size.tolist() == [[groups, 6, 10]]
    assert torch.equal(found, torch.cat([flat(part, 4, 2) for part in cut]))


def sizes(count: int = 300) -> list[tuple[int, int, int]]:
    rng = random.Random(0)
    return [(rng.randint(2, 40), rng.randint(5, 900), rng.randint(5, 900)) for _ in range(count)]


def test_the_rule_for_each_frame_is_transformers_own() -> None:
    preprocess = PatchPreprocessor(least=56 * 56, most=28 * 28 * 200, budget="frame")
    for frames, height, width in sizes():
        wanted = frame_rule(height, width, 28, min_pixels=56 * 56, max_pixels=28 * 28 * 200)
        assert preprocess.size(frames, height, width) == wanted


def test_the_rule_for_a_whole_clip_is_transformers_own() -> None:
    preprocess = PatchPreprocessor(least=112 * 112, most=28 * 28 * 900, budget="clip")
    for frames, height, width in sizes():
        wanted = clip_rule(
            frames, height, width, 2, 28, min_pixels=112 * 112, max_pixels=28 * 28 * 900
        )
        assert preprocess.size(frames, height, width) == wanted


def test_shares_of_a_clip_are_the_rule_for_each_frame_with_less() -> None:
    preprocess = PatchPreprocessor(least=56 * 56, most=28 * 28 * 768, budget="share", temporal=1)
    for frames, height, width in sizes():
        wanted = frame_rule(
            height, width, 28, min_pixels=56 * 56, max_pixels=28 * 28 * 768 // frames
        )
        assert preprocess.size(frames, height, width) == wanted


def test_budgets_by_hand() -> None:
    """A square of 280 pixels is 10 x 10 cells of 28; the budget allows 25 of them."""
    allowed = {"least": 1, "most": 25 * 28 * 28}
    assert PatchPreprocessor(**allowed, budget="frame").size(8, 280, 280) == (140, 140)
    # Eight frames together, so a little over 3 cells each: 1 x 1.
    assert PatchPreprocessor(**allowed, budget="clip").size(8, 280, 280) == (28, 28)
    assert PatchPreprocessor(**allowed, budget="share").size(8, 280, 280) == (28, 28)
    least = PatchPreprocessor(least=16 * 28 * 28, most=99 * 28 * 28, budget="frame")
    assert least.size(8, 28, 28) == (112, 112)


def test_caps_by_hand() -> None:
    """Of 1000 tokens nine tenths count: 2 frames share a group, so 8 frames have 225 cells each."""
    frame = PatchPreprocessor(least=1, most=400 * 28 * 28, budget="frame", cap=1000)
    assert frame.size(8, 2800, 2800) == (15 * 28, 15 * 28)
    assert frame.size(2, 2800, 2800) == (20 * 28, 20 * 28)  # the frame's own bound is smaller
    # At most 9 cells a frame, though the clip could have 100 x 4.
    whole = PatchPreprocessor(least=1, most=400 * 28 * 28, budget="clip", cap=9)
    assert whole.size(4, 2800, 2800) == (3 * 28, 3 * 28)
    # Where the shares would be under the least, they are a twentieth above it.
    floor = PatchPreprocessor(least=16 * 28 * 28, most=400 * 28 * 28, budget="frame", cap=1)
    assert floor.size(8, 2800, 2800) == (4 * 28, 4 * 28)


@pytest.mark.parametrize(("frames", "height", "width"), [(4, 4, 1000), (4, 1000, 4)])
def test_frames_that_are_too_long_are_refused(frames: int, height: int, width: int) -> None:
    with pytest.raises(AdapterError, match=f"frames of {width} x {height} pixels are refused"):
        SMALL.size(frames, height, width)


def test_a_clip_shorter_than_a_group_is_refused_where_the_budget_is_the_clips() -> None:
    whole = SMALL.model_copy(update={"budget": "clip"})
    with pytest.raises(AdapterError, match=r"1 frame was given, .* give 2 frames or more"):
        whole(clip(1, 16, 16))
    assert SMALL(clip(1, 16, 16))[1].tolist() == [[1, 4, 4]]


def test_grids_by_hand() -> None:
    assert list(merged_grids(torch.tensor([[2, 4, 6], [1, 2, 2]]), 2)) == [
        Grid(2, 2, 3),
        Grid(1, 1, 1),
    ]
    assert list(merged_grids(None, 2)) == []
    assert by_frame(Grid(2, 2, 3)) == (Grid(1, 2, 3, 0), Grid(1, 2, 3, 1))


def written(folder: Path, name: str, values: object) -> Path:
    (folder / name).write_text(json.dumps(values), encoding="utf-8")
    return folder


def test_settings_of_new_and_old_checkpoints(tmp_path: Path) -> None:
    default = PatchPreprocessor(least=10, most=20, budget="frame")
    new = written(
        tmp_path,
        "processor_config.json",
        {
            "video_processor": {
                "size": {"shortest_edge": 100, "longest_edge": 900},
                "patch_size": 16,
                "merge_size": 4,
                "temporal_patch_size": 1,
                "image_mean": HALF,
                "image_std": HALF,
                "resample": 2,
                "cap_pixels_per_frame": True,
            }
        },
    )
    assert PatchPreprocessor.from_directory(new, default, cap=7) == PatchPreprocessor(
        least=100,
        most=900,
        budget="frame",
        patch=16,
        merge=4,
        temporal=1,
        mean=HALF,
        std=HALF,
        resample="bilinear",
        cap=7,
    )
    (tmp_path / "processor_config.json").unlink()
    old = written(tmp_path, "preprocessor_config.json", {"min_pixels": 3136, "max_pixels": 50176})
    read = PatchPreprocessor.from_directory(old, default, cap=7)
    assert read == default.model_copy(update={"least": 3136, "most": 50176})


def test_settings_that_are_not_usable_are_named(tmp_path: Path) -> None:
    folder = written(tmp_path, "preprocessor_config.json", {"patch_size": 0})
    with pytest.raises(AdapterError, match=r"preprocessor_config\.json: patch: .*\(0\)"):
        PatchPreprocessor.from_directory(folder, SMALL)
    written(tmp_path, "preprocessor_config.json", {"size": 224})
    with pytest.raises(AdapterError, match="size=224 has no shortest_edge and longest_edge"):
        PatchPreprocessor.from_directory(folder, SMALL)
