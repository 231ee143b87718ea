"""LLaVA-NeXT."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from tests.adapters.family import FamilyCase, Inputs
from tests.adapters.llavas import (
    FLAT,
    PINPOINTS,
    TALL,
    TILED,
    local,
    processor,
    tiled,
    tiled_probes,
    tiny,
    tokenizer,
)
from tests.adapters.patched import write
from tokenreduce_model_adapters.llava_next import LlavaNext


def tiny_next(**settings: Any) -> Any:
    """Return a random LLaVA-NeXT."""
    return tiny("LlavaNext", image_grid_pinpoints=PINPOINTS, **settings)


def ragged() -> Inputs:
    rows = [[1, 2, *FLAT, 3], [4, *TALL, 11, *FLAT, 5, 6, 7, 8], [1, 2, 3, 4]]
    return tiled(rows, "flat", "tall", "flat")


def write_checkpoint(directory: Path) -> None:
    settings = processor("LlavaNext", "LlavaNextImageProcessor")
    settings["image_processor"]["image_grid_pinpoints"] = PINPOINTS
    write(directory, tiny_next(), tokenizer(), settings)


CASES = (
    FamilyCase(
        "llava_next",
        LlavaNext(),
        tiny_next,
        {**TILED, "ragged": ragged},
        features=("get_image_features",),
        probes=tiled_probes,
        unmixed=partial(local, towers=("vision_tower",)),
        probed=("image",),
    ),
)
