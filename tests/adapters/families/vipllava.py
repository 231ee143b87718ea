"""ViP-LLaVA."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from tests.adapters.family import FamilyCase
from tests.adapters.llavas import SQUARES, local, processor, square_probes, tiny, tokenizer
from tests.adapters.patched import write
from tokenreduce_model_adapters.vipllava import VipLlava


def tiny_vipllava() -> Any:
    """Return a random ViP-LLaVA with features of two layers of its tower."""
    return tiny("VipLlava", vision_feature_layer=[-2, 1])


def write_checkpoint(directory: Path) -> None:
    write(directory, tiny_vipllava(), tokenizer(), processor("Llava", "CLIPImageProcessor"))


CASES = (
    FamilyCase(
        "vipllava",
        VipLlava(),
        tiny_vipllava,
        SQUARES,
        features=("get_image_features",),
        probes=square_probes,
        unmixed=partial(local, towers=("vision_tower",)),
        probed=("images",),
    ),
)
