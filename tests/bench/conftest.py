"""A shape small enough for tests, and requests about it."""

from __future__ import annotations

from importlib import resources
from typing import Any

import pytest
import yaml

from tokenreduce.bench import shapes
from tokenreduce.bench.request import Request, parse_request
from tokenreduce.bench.shapes import Grid, NamedShape, TextShape, TowerShape
from tokenreduce.config import Classes
from tokenreduce.plugins import load_plugins

MINI = NamedShape(
    "mini",
    "",
    TextShape("llama", 8, 32, 64, 4, 2, 8, 64),
    TowerShape("clip", 2, 16, 32, 2, image=28, patch=14),
    Grid(4, 2, 3),
)


@pytest.fixture
def mini(monkeypatch: pytest.MonkeyPatch) -> NamedShape:
    """Make `mini` a known shape: 8 layers, 4 frames of 2 x 3 tokens."""
    monkeypatch.setitem(shapes.SHAPES, "mini", MINI)
    return MINI


def shipped() -> dict[str, Any]:
    text = (resources.files("tokenreduce") / "data" / "compare.yaml").read_text()
    reducers: dict[str, Any] = yaml.safe_load(text)["reducers"]
    return reducers


def request_for(
    model: str, *labels: str, overrides: tuple[str, ...] = (), **options: Any
) -> Request:
    registry = load_plugins(entry_points=[]).registry
    classes = Classes(registry.reducers, registry.benchmarks)
    return parse_request({"model": model, **options}, labels, overrides, shipped(), classes)
