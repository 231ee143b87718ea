"""LLaVA-1.5."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from tests.adapters.family import FamilyCase
from tests.adapters.llavas import SQUARES, local, processor, square_probes, tiny, tokenizer
from tests.adapters.patched import write
from tokenreduce_model_adapters.llava import Llava


def tiny_llava(**settings: Any) -> Any:
    """Return a random LLaVA-1.5 with a CLIP tower."""
    return tiny("Llava", **settings)


def write_checkpoint(directory: Path) -> None:
    write(directory, tiny_llava(), tokenizer(), processor("Llava", "CLIPImageProcessor"))


CASES = (
    FamilyCase(
        "llava",
        Llava(),
        tiny_llava,
        SQUARES,
        features=("get_image_features",),
        probes=square_probes,
        unmixed=partial(local, towers=("vision_tower",)),
        probed=("images",),
    ),
)
