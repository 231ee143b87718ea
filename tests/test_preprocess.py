"""Pixel values against arithmetic by hand, PIL, and the processors of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tokenreduce.errors import AdapterError
from tokenreduce.preprocess import FramePreprocessor, Size

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
ONEVISION = {
    "size": {"height": 24, "width": 24},
    "image_mean": list(CLIP_MEAN),
    "image_std": list(CLIP_STD),
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_center_crop": None,
    "resample": 3,
    "rescale_factor": 1 / 255,
    "image_processor_type": "LlavaOnevisionImageProcessor",
}


def natural_frames(count: int, height: int, width: int) -> torch.Tensor:
    """Smooth shapes, edges and mild noise: what a camera gives, not white noise."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    frames = []
    for number in range(count):
        waves = [np.sin(rows / (7 + c) + number) + np.cos(columns / (9 - c)) for c in range(3)]
        image = np.stack(waves, axis=-1) * 50 + 120
        image[height // 3 : height // 2, width // 4 : width // 2] = (230, 40, 10)
        frames.append(np.clip(image + random.normal(0, 4, image.shape), 0, 255))
    return torch.from_numpy(np.stack(frames).astype(np.uint8))


def by_pil(
    frames: torch.Tensor, size: tuple[int, int], crop: tuple[int, int] | None = None
) -> torch.Tensor:
    images = []
    for frame in frames.numpy():
        image = Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.BICUBIC)
        if crop is not None:
            top, left = (size[0] - crop[0]) // 2, (size[1] - crop[1]) // 2
            image = image.crop((left, top, left + crop[1], top + crop[0]))
        images.append((np.asarray(image) / 255 - CLIP_MEAN) / CLIP_STD)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()


def write(directory: Path, name: str, values: Any) -> Path:
    (directory / name).write_text(values if isinstance(values, str) else json.dumps(values))
    return directory


def test_values_by_hand() -> None:
    frames = torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8)  # one frame of one pixel
    preprocessor = FramePreprocessor(
        size=Size(height=1, width=1), mean=(0.5, 0.2, 0.25), std=(0.5, 0.4, 0.25)
    )
    # (0 - .5) / .5, (51 / 255 - .2) / .4, (1 - .25) / .25
    torch.testing.assert_close(
        preprocessor(frames), torch.tensor([-1.0, 0.0, 3.0]).view(1, 3, 1, 1)
    )


def test_mean_of_a_block_by_hand() -> None:
    """Halving with antialiasing a picture that is constant in 8 x 8 blocks keeps the blocks."""
    blocks = torch.tensor([[10, 200], [90, 250]], dtype=torch.uint8)
    frames = blocks.repeat_interleave(16, 0).repeat_interleave(16, 1)[None, :, :, None]
    values = FramePreprocessor(size=Size(height=16, width=16))(frames.expand(1, 32, 32, 3))
    centres = values[0, :, 4::8, 4::8] * 255
    torch.testing.assert_close(centres, blocks.float().expand(3, 2, 2), atol=0.5, rtol=0)


@pytest.mark.parametrize("shape", [(64, 64), (48, 80), (270, 480), (20, 18)])
def test_square_resize_against_pil(shape: tuple[int, int]) -> None:
    frames = natural_frames(3, *shape)
    preprocessor = FramePreprocessor(size=Size(height=24, width=24), mean=CLIP_MEAN, std=CLIP_STD)
    values = preprocessor(frames)
    assert values.dtype == torch.float32
    assert values.shape == (3, 3, 24, 24)
    assert (values - by_pil(frames, (24, 24))).abs().max() <= 0.03


@pytest.mark.parametrize(
    ("shape", "resized"),
    [((64, 96), (28, 42)), ((96, 64), (42, 28)), ((270, 480), (28, 49)), ((28, 28), (28, 28))],
)
def test_shortest_edge_and_centre_crop_against_pil(
    shape: tuple[int, int], resized: tuple[int, int]
) -> None:
    frames = natural_frames(2, *shape)
    preprocessor = FramePreprocessor(
        size=Size(shortest_edge=28), crop=Size(height=28, width=28), mean=CLIP_MEAN, std=CLIP_STD
    )
    values = preprocessor(frames)
    assert values.shape == (2, 3, 28, 28)
    assert (values - by_pil(frames, resized, (28, 28))).abs().max() <= 0.03


def test_against_transformers(tmp_path: Path) -> None:
    """The processor that a LLaVA-OneVision checkpoint uses for a square picture."""
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
        LlavaOnevisionImageProcessorPil,
    )

    frames = natural_frames(2, 60, 90)
    reference = LlavaOnevisionImageProcessorPil(
        size={"height": 24, "width": 24}, image_grid_pinpoints=[[24, 24]]
    )
    reference.save_pretrained(tmp_path)
    batch = reference([Image.fromarray(frame) for frame in frames.numpy()], return_tensors="pt")
    values = FramePreprocessor.from_directory(tmp_path)(frames)
    assert (values - batch["pixel_values"][:, 0]).abs().max() <= 0.03


def test_against_clip_of_transformers(tmp_path: Path) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    frames = natural_frames(2, 60, 91)
    reference = CLIPImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    )
    reference.save_pretrained(tmp_path)
    batch = reference([Image.fromarray(frame) for frame in frames.numpy()], return_tensors="pt")
    values = FramePreprocessor.from_directory(tmp_path)(frames)
    assert (values - batch["pixel_values"]).abs().max() <= 0.03


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("processor_config.json", "video_processor"),
        ("processor_config.json", "image_processor"),
        ("video_preprocessor_config.json", None),
        ("preprocessor_config.json", None),
    ],
)
def test_where_settings_are_found(tmp_path: Path, name: str, wrap: str | None) -> None:
    write(tmp_path, name, ONEVISION if wrap is None else {wrap: ONEVISION})
    preprocessor = FramePreprocessor.from_directory(tmp_path)
    assert preprocessor.size == Size(height=24, width=24)
    assert preprocessor.mean == CLIP_MEAN
    assert preprocessor.std == CLIP_STD
    assert preprocessor.resample == "bicubic"
    assert preprocessor.crop is None


def test_video_settings_come_before_image_settings(tmp_path: Path) -> None:
    image = {**ONEVISION, "size": {"height": 99, "width": 99}}
    write(tmp_path, "preprocessor_config.json", image)
    write(tmp_path, "processor_config.json", {"image_processor": image, "x": 1})
    write(tmp_path, "video_preprocessor_config.json", ONEVISION)
    assert FramePreprocessor.from_directory(tmp_path).size == Size(height=24, width=24)


def test_switches(tmp_path: Path) -> None:
    values = {**ONEVISION, "do_normalize": False, "do_rescale": False, "resample": 2}
    write(tmp_path, "preprocessor_config.json", values)
    preprocessor = FramePreprocessor.from_directory(tmp_path)
    assert preprocessor.resample == "bilinear"
    frames = torch.full((1, 24, 24, 3), 77, dtype=torch.uint8)
    torch.testing.assert_close(preprocessor(frames), torch.full((1, 3, 24, 24), 77.0))


def test_an_odd_rest_is_cut_at_the_bottom_and_the_right() -> None:
    preprocessor = FramePreprocessor(size=Size(height=5, width=5), crop=Size(height=2, width=2))
    frames = torch.arange(25, dtype=torch.uint8).view(1, 5, 5, 1).expand(-1, -1, -1, 3)
    pixels = preprocessor(frames)[0, 0] * 255
    assert pixels.round().tolist() == [[6.0, 7.0], [11.0, 12.0]]


def test_small_frames_are_padded_before_the_crop() -> None:
    preprocessor = FramePreprocessor(size=Size(height=2, width=2), crop=Size(height=4, width=4))
    values = preprocessor(torch.full((1, 2, 2, 3), 255, dtype=torch.uint8))
    expected = torch.zeros(1, 3, 4, 4)
    expected[..., 1:3, 1:3] = 1
    torch.testing.assert_close(values, expected)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ("{", r"preprocessor_config\.json: not readable as JSON"),
        ([1], r"preprocessor_config\.json: holds list"),
        ({}, r"size=None has neither"),
        ({**ONEVISION, "size": {"longest_edge": 3}}, r"size=\{'longest_edge': 3\} has neither"),
        ({**ONEVISION, "size": "big"}, r"size='big' is not a size"),
        ({**ONEVISION, "size": {"height": -1, "width": 2}}, r"size=.* is not a size"),
        ({**ONEVISION, "image_mean": None}, r"preprocessor_config\.json: mean"),
        ({**ONEVISION, "image_std": [1, 2]}, r"preprocessor_config\.json: std"),
        ({**ONEVISION, "resample": 17}, r"preprocessor_config\.json: resample"),
        ({**ONEVISION, "do_resize": False}, r"do_resize=false"),
        ({**ONEVISION, "do_center_crop": True}, r"crop_size=None has neither"),
    ],
)
def test_invalid_settings(tmp_path: Path, values: Any, reason: str) -> None:
    write(tmp_path, "preprocessor_config.json", values)
    with pytest.raises(AdapterError, match=reason):
        FramePreprocessor.from_directory(tmp_path)


def test_no_settings(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"no frame preprocessor settings found; one of proc"):
        FramePreprocessor.from_directory(tmp_path)


@pytest.mark.parametrize(
    "frames",
    [torch.zeros(2, 4, 4, 3), torch.zeros(4, 4, 3, dtype=torch.uint8), torch.zeros(1, 3, 4, 4)],
)
def test_wrong_frames(frames: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"frames must be uint8 \[frames, height, width, 3\]"):
        FramePreprocessor(size=Size(height=4, width=4))(frames)
