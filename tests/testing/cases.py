"""What adapters are tried on."""

from __future__ import annotations

from functools import partial

from tokenreduce.adapter import ModelAdapter
from tokenreduce.testing import AdapterCase
from tokenreduce.testing.families import FAMILIES, Family, Inputs, collate
from tokenreduce_model_adapters.llava_onevision import LlavaOnevision


def onevision_cases(adapter: ModelAdapter | None = None) -> list[AdapterCase]:
    """Return a case of LLaVA-OneVision, or of another adapter, on each tiny family."""
    return [
        AdapterCase(adapter or LlavaOnevision(), partial(family.model, 4), partial(_inputs, family))
        for family in FAMILIES
    ]


def _inputs(family: Family) -> Inputs:
    return collate(family.prompts())
