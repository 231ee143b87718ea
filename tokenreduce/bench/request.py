"""A request for a bench: from the words of the command line to checked values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tokenreduce.bench.pattern import Pattern
from tokenreduce.bench.shapes import Grid, NamedShape, find_shape
from tokenreduce.config import Classes, CommonSettings, Dtype, parse_config
from tokenreduce.errors import ConfigError
from tokenreduce.overrides import apply_overrides
from tokenreduce.paper.published import TIMED, Published
from tokenreduce.problems import Report, build

if TYPE_CHECKING:
    from tokenreduce.reducer import Reducer

DEFAULT_FRAMES = 16  # of a clip for a checkpoint

Part = Literal["eager", "decode", "memory", "phases", "vision"]
"""What a bench may leave out."""

Attention = Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flash_attention_4"]
"""Attention implementations that a session supports."""

Whole = Annotated[int, Field(ge=1)]


class BenchSettings(BaseModel):
    """The options of a bench besides its reducers.

    Attributes
    ----------
    model
        A named shape, or the folder of a checkpoint.
    frames, grid
        Of the video; None: as the shape says. ``grid`` is ``(rows, columns)``.
    text
        Text tokens of the prompt.
    repeats, warmup
        Timed rounds, and rounds before them; without timed rounds, only memory and phases are
        measured.
    decode
        Tokens after the first.
    pattern
        What attention reducers see; None: ``published`` for a named shape.
    without
        Parts to leave out.
    attention
        Attention implementation of the model.
    dtype, device
        See :class:`tokenreduce.config.CommonSettings`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    frames: Whole | None = None
    grid: tuple[Whole, Whole] | None = None
    text: Whole = 64
    repeats: int = Field(5, ge=0)
    warmup: int = Field(1, ge=0)
    decode: Whole = 16
    pattern: Pattern | None = None
    without: frozenset[Part] = frozenset()
    attention: Attention = "sdpa"
    dtype: Dtype = "bfloat16"
    device: str = "auto"

    @field_validator("grid", mode="before")
    @classmethod
    def _two_numbers(cls, grid: object) -> object:
        if not isinstance(grid, str):
            return grid
        if not re.fullmatch(r"\d+x\d+", grid):
            raise ValueError("write ROWSxCOLUMNS, as in 12x12")
        return tuple(int(side) for side in grid.split("x"))


@dataclass(frozen=True, slots=True)
class Request:
    """A checked request.

    Attributes
    ----------
    settings
        The options.
    shape
        The named shape; None for a checkpoint.
    grid
        Its video; None for a checkpoint, whose own processor decides.
    pattern
        What attention reducers see.
    rows
        Label to the reducers that are composed in order.
    published
        Label to the paper's row, for rows with the paper's own settings and video.
    """

    settings: BenchSettings
    shape: NamedShape | None
    grid: Grid | None
    pattern: Pattern
    rows: Mapping[str, Sequence[Reducer]]
    published: Mapping[str, Published]

    @property
    def frames(self) -> int:
        """Frames of the video."""
        return self.grid.frames if self.grid else self.settings.frames or DEFAULT_FRAMES


def parse_request(
    options: Mapping[str, Any],
    labels: Sequence[str],
    overrides: Sequence[str],
    shipped: Mapping[str, Any],
    classes: Classes,
) -> Request:
    """Check everything before any weight is made or read.

    Parameters
    ----------
    options
        Values of :class:`BenchSettings`.
    labels
        Reducers, or labels of the paper's rows; none: the shipped ones.
    overrides
        ``reducers.LABEL.SETTING=VALUE``.
    shipped
        Label to the settings of the reducers that come with the package.
    classes
        What names of reducers stand for.

    Raises
    ------
    ConfigError
        With what is wrong.
    """
    settings = _settings(options)
    shape = None if Path(settings.model).is_dir() else find_shape(settings.model)
    if shape is None and settings.grid is not None:
        raise ConfigError(
            f"grid {settings.grid[0]}x{settings.grid[1]}: the checkpoint '{settings.model}' itself "
            "says how many tokens a frame has, so leave it out."
        )
    grid = None if shape is None else _grid(shape, settings)
    known = _known(shipped, shape)
    chosen = {label: known.get(label) for label in labels or shipped}
    rows = _rows(chosen, overrides, classes)
    if shape is not None:
        _check_layers(shape, rows)
    published: dict[str, Published] = {}
    if shape is not None and shape.model and grid == shape.grid:
        unchanged = _rows(chosen, (), classes)
        paper = TIMED[shape.model]
        published = {k: paper[k] for k in rows if k in paper and rows[k] == unchanged.get(k)}
    pattern = settings.pattern or ("model" if shape is None else "published")
    return Request(settings, shape, grid, pattern, rows, published)


def _settings(options: Mapping[str, Any]) -> BenchSettings:
    found = Report()
    settings = build(BenchSettings, options, (), found)
    build(CommonSettings, {"device": options.get("device", "auto")}, (), found)
    found.raise_if_any("the options of `bench`")
    assert settings is not None
    return settings


def _grid(shape: NamedShape, settings: BenchSettings) -> Grid:
    rows, columns = settings.grid or (shape.grid.rows, shape.grid.columns)
    return Grid(settings.frames or shape.grid.frames, rows, columns)


def _known(shipped: Mapping[str, Any], shape: NamedShape | None) -> dict[str, dict[str, Any]]:
    """Return the settings of each label: the shipped ones, and what the shape changes in them."""
    changed = shape.settings if shape else {}
    known = {}
    for label in (*shipped, *changed):
        own = dict(changed.get(label, {}))
        use = own.get("use", label)
        known[label] = {**(shipped.get(use) or {}), **own}
    return known


def _rows(
    chosen: Mapping[str, Any], overrides: Sequence[str], classes: Classes
) -> dict[str, Sequence[Reducer]]:
    data = apply_overrides({"reducers": dict(chosen)}, overrides)
    if wrong := [key for key in data if key != "reducers"]:
        raise ConfigError(
            f"--set {wrong[0]}=...: `bench` changes settings of reducers only, as in "
            "--set reducers.vas.ratio=0.5; the rest are options."
        )
    rows = parse_config(data, classes, "the reducers of `bench`").reducers
    # The model itself is the baseline here, so that of `compare` runs only where it is asked for.
    asked = {label: row for label, row in rows.items() if label in data["reducers"]}
    return cast("dict[str, Sequence[Reducer]]", asked)


def _check_layers(shape: NamedShape, rows: Mapping[str, Sequence[Reducer]]) -> None:
    """Let reducers say what is wrong with their layers before there is a model."""
    for row in rows.values():
        for reducer in row:
            reducer.acts_after(shape.text.layers)
