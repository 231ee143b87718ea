"""Named shapes: the sizes of the paper's models, to be filled with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from tokenreduce.errors import ConfigError
from tokenreduce.names import suggestion
from tokenreduce.paper.published import TIMED


@dataclass(frozen=True, slots=True)
class TextShape:
    """Sizes of a decoder.

    Attributes
    ----------
    family
        Whose classes of transformers to fill with weights.
    layers, hidden, intermediate, heads, key_heads, head_dim, vocabulary
        See :class:`tokenreduce.cost.DecoderShape`.
    """

    family: Literal["llama", "qwen2"]
    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_heads: int
    head_dim: int
    vocabulary: int


@dataclass(frozen=True, slots=True)
class TowerShape:
    """Sizes of a vision tower, and the pictures that it is given.

    Attributes
    ----------
    family
        Whose classes of transformers to fill with weights.
    layers, hidden, intermediate, heads
        Of the tower.
    image, patch
        Pixels per side of a picture and of a patch.
    """

    family: Literal["clip", "siglip", "internvl"]
    layers: int
    hidden: int
    intermediate: int
    heads: int
    image: int
    patch: int


@dataclass(frozen=True, slots=True)
class Grid:
    """Visual tokens of one video."""

    frames: int
    rows: int
    columns: int

    @property
    def tokens(self) -> int:
        """Number of visual tokens."""
        return self.frames * self.rows * self.columns


@dataclass(frozen=True, slots=True)
class NamedShape:
    """One model of the paper by its sizes.

    Attributes
    ----------
    name
        On the command line.
    model
        The paper's model of these sizes; empty for a shape of our own.
    text, tower
        Sizes of decoder and vision tower.
    grid
        Its video, unless another is asked for.
    """

    name: str
    model: str
    text: TextShape
    tower: TowerShape
    grid: Grid

    @property
    def settings(self) -> Mapping[str, Mapping[str, Any]]:
        """Label to settings that differ from the shipped ones: the paper's, for its models."""
        if not self.model:
            return _SHALLOW
        return {label: row.settings for label, row in TIMED[self.model].items()}


CLIP = TowerShape("clip", 24, 1024, 4096, 16, image=336, patch=14)
SIGLIP = TowerShape("siglip", 27, 1152, 4304, 16, image=384, patch=14)
INTERN = TowerShape("internvl", 45, 3200, 12800, 25, image=448, patch=14)

_FULL = (
    NamedShape(
        "llama-7b",
        "PLLaVA-7B",
        TextShape("llama", 32, 4096, 11008, 32, 32, 128, 32064),
        CLIP,
        Grid(16, 12, 12),
    ),
    NamedShape(
        "llama3-8b",
        "VILA1.5-8B",
        TextShape("llama", 32, 4096, 14336, 32, 8, 128, 128256),
        SIGLIP,
        Grid(8, 14, 14),
    ),
    NamedShape(
        "qwen2-7b",
        "LongVA-7B",
        TextShape("qwen2", 28, 3584, 18944, 28, 4, 128, 152064),
        CLIP,
        Grid(32, 12, 12),
    ),
    NamedShape(
        "yi-34b",
        "VILA1.5-40B",
        TextShape("llama", 60, 7168, 20480, 56, 8, 128, 64000),
        INTERN,
        Grid(8, 16, 16),
    ),
)

# The same depths and ratios of heads to key heads, as narrow as a laptop can take.
_TINY_TEXT = {
    "llama-7b": TextShape("llama", 32, 1024, 2752, 8, 8, 128, 4096),
    "llama3-8b": TextShape("llama", 32, 1024, 3584, 8, 2, 128, 4096),
    "qwen2-7b": TextShape("qwen2", 28, 1120, 5920, 14, 2, 64, 4096),
    "yi-34b": TextShape("llama", 60, 1120, 3200, 14, 2, 64, 4096),
}
_TINY_WIDTH = {"clip": (256, 1024, 4), "siglip": (288, 1088, 4), "internvl": (320, 1280, 5)}


def _tiny(shape: NamedShape) -> NamedShape:
    hidden, intermediate, heads = _TINY_WIDTH[shape.tower.family]
    tower = replace(shape.tower, hidden=hidden, intermediate=intermediate, heads=heads)
    return replace(shape, name=f"{shape.name}-tiny", text=_TINY_TEXT[shape.name], tower=tower)


# On four layers, which are fewer than the shipped settings have in mind.
_SHALLOW: Mapping[str, Mapping[str, Any]] = {
    "vas": {"start_layer": 0, "end_layer": 2, "interval": 1},
    "tome": {"end_layer": 2},
    "random": {"layers": [1, 2]},
    "spatial_average": {"layers": [1, 2]},
    "temporal_average": {"layers": [1, 2]},
}

_GROWTH = NamedShape(
    "growth",
    "",
    TextShape("llama", 4, 256, 704, 4, 4, 64, 1024),
    replace(CLIP, layers=4, hidden=128, intermediate=512, heads=2),
    Grid(8, 16, 16),
)

SHAPES: Mapping[str, NamedShape] = {
    shape.name: shape for shape in (*_FULL, *map(_tiny, _FULL), _GROWTH)
}


def find_shape(name: str) -> NamedShape:
    """Return a shape by its name.

    Raises
    ------
    ConfigError
        If there is none of that name.
    """
    if name not in SHAPES:
        raise ConfigError(
            f"'{name}' is neither a named shape nor the folder of a checkpoint: "
            f"{suggestion(name, SHAPES)}"
        )
    return SHAPES[name]
