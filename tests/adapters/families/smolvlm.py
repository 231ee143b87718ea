"""SmolVLM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from tests.adapters import patched
from tests.adapters.families import idefics3
from tests.adapters.families.idefics3 import asked, picture, tiny, tokenizer, view
from tests.adapters.family import Cell, FamilyCase, Inputs
from tests.adapters.llavas import SIZE
from tests.adapters.patched import transformers_inputs, write
from tests.adapters.tiled import TILE, disturbed
from tokenreduce_model_adapters.smolvlm import SmolVLM

INTRO = "You are provided the following series of three frames from a 0:01:00 [H:MM:SS] video.\n"
TIMES = ("00:09", "00:09", "01:00")  # two of one second, and one with three other digits


def tiny_smolvlm() -> Any:
    return tiny("SmolVLM")


def clip(*times: str) -> str:
    return INTRO + "".join(f"\nFrame from {time}:{view()}" for time in times) + "\n\n"


def video() -> Inputs:
    return asked(clip(*TIMES), tiles=[3])


def both() -> Inputs:
    return asked(clip(*TIMES) + picture(1, 2), tiles=[6])


def ragged() -> Inputs:
    """Return a video between images, a cut image, two videos, and text."""
    first, second = clip("00:00", "00:01"), clip("00:00", "00:01", "00:02")
    texts = (view() + clip(*TIMES) + picture(1, 2), picture(2, 2), first + second, "")
    return asked(*texts, tiles=[1 + 3 + 3, 5, 5, 0])


def probes(model: Any, inputs: Inputs) -> Iterator[tuple[Inputs, int, Cell]]:
    """Disturb frames of a video, or the tiles of an image."""
    if inputs["pixel_values"].shape[1] != len(TIMES):
        return idefics3.probes(model, inputs)
    return disturbed(inputs, [((0, frame), (0, frame, 0, 0)) for frame in range(3)])


def write_checkpoint(directory: Path, **changes: Any) -> None:
    """Write a tiny checkpoint of the family; ``changes`` are made to its video settings."""
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    settings = patched.clip_settings(
        "SmolVLMVideoProcessor",
        **half,
        size={"longest_edge": 2 * SIZE},
        max_image_size={"longest_edge": SIZE},
        do_pad=True,
        resample=1,
    )
    for name in ("merge_size", "patch_size", "temporal_patch_size"):
        del settings[name]
    image = {**settings, "image_processor_type": "SmolVLMImageProcessor"}
    image |= {"do_image_splitting": True}
    del image["video_processor_type"], image["return_metadata"]
    processor = {
        "processor_class": "SmolVLMProcessor",
        "image_processor": image,
        "video_processor": settings | changes,
        "image_seq_len": TILE,
    }
    write(directory, tiny_smolvlm(), tokenizer(), processor)


VARIANTS: tuple[dict[str, Any], ...] = ({}, {"resample": 3, "do_pad": False})


def hf_inputs(
    directory: Path, frames: Tensor, question: str, times: Sequence[float]
) -> dict[str, Any]:
    """Return what transformers' own processor makes of a clip; this needs num2words."""
    return transformers_inputs(directory, frames, question, times)


CASES = (
    FamilyCase(
        "smolvlm",
        SmolVLM(),
        tiny_smolvlm,
        {
            "image": idefics3.image,
            "images": idefics3.images,
            "video": video,
            "video+image": both,
            "text": idefics3.text,
            "ragged": ragged,
        },
        features=("get_image_features",),
        probes=probes,
        unmixed=idefics3.unmixed,
        probed=("image", "images", "video"),
    ),
)
