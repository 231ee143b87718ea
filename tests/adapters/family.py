"""What the tests of all model families are run on: a tiny model and prompts of each."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenreduce.adapter import ModelAdapter

Inputs = dict[str, Any]
Cell = tuple[int, int, int, int]
"""Item, frame, row and column."""

KINDS = ("image", "images", "video", "video+image", "text", "ragged")
"""Kinds of prompts. ``ragged`` is a left-padded batch of different ones, one of text alone."""


@dataclass(frozen=True, slots=True)
class FamilyCase:
    """One model family under test.

    Attributes
    ----------
    name
        For test ids and the matrix.
    adapter
        The family's adapter.
    model
        Makes a tiny random model of transformers' own class from its own configuration class:
        at least six decoder layers, float32, ``eval()``, no end-of-sequence token. Weights are
        large enough for attention to be far from uniform.
    prompts
        By kind (:data:`KINDS`), what makes the model's inputs as its processor would return them.
        Kinds that the family cannot take are left out.
    features
        By name of the model's method that encodes pixels (``get_image_features``,
        ``get_video_features``), which roles its features fill, for the marker test. Empty where
        the family's own test does it in another way.
    probes
        Given a model whose vision tower mixes nothing between patches and the inputs of a prompt,
        other inputs that differ in the pixels of one cell, with sample and cell.
    unmixed
        Makes the tower of a model local: what ``probes`` needs.
    save
        See :class:`tokenreduce.testing.AdapterCase`.
    """

    name: str
    adapter: ModelAdapter
    model: Callable[[], Any]
    prompts: Mapping[str, Callable[[], Inputs]]
    features: tuple[str, ...] = ()
    probes: Callable[[Any, Inputs], Iterator[tuple[Inputs, int, Cell]]] | None = None
    unmixed: Callable[[Any], None] | None = None
    probed: tuple[str, ...] = field(default=())
    save: Callable[[Any, Path], None] | None = None

    @property
    def visual(self) -> tuple[str, ...]:
        """Kinds of prompts that hold something to reduce."""
        return tuple(kind for kind in self.prompts if kind != "text")


def padded(rows: list[list[int]], pad: int = 0) -> Inputs:
    """Return ids and mask of prompts, padded on the left to the longest."""
    longest = max(map(len, rows))
    ids = [[pad] * (longest - len(row)) + row for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def noise(*shape: int, seed: int = 1) -> Tensor:
    """Return pixels."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ready(model: Any) -> Any:
    """Return a tiny model as :attr:`FamilyCase.model` must be."""
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval()


def families() -> list[FamilyCase]:
    """Return the cases of all files in ``families/``, by name."""
    folder = Path(__file__).parent / "families"
    modules = sorted(module.name for module in pkgutil.iter_modules([str(folder)]))
    found = [importlib.import_module(f"tests.adapters.families.{name}") for name in modules]
    return [case for module in found for case in module.CASES]
