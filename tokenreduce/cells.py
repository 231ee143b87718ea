"""Cells: one model, asked the questions of one benchmark under one list of reducers and one seed.

Cells are plain values in JSON types, so that they go to other processes, machines and files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

Measure = Literal["img_memory", "flops", "kv_bytes"]
"""What a budget counts, as a share of the unreduced prefill."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What the rows of one table have in common.

    Attributes
    ----------
    model, model_options, dtype, device, positions, max_new_tokens, frames
        As in a configuration; see :class:`tokenreduce.config.CommonSettings`.
    benchmark
        The benchmark as it would stand in YAML, every setting written out.
    turn
        1: the question is asked first. 2: it is a second turn, after another question about the
        same video was asked and answered under the same reducers; what these removed is gone.
    """

    model: str
    benchmark: Mapping[str, Any]
    model_options: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    device: str = "auto"
    positions: str = "keep"
    max_new_tokens: int = 16
    frames: int | None = None
    turn: int = 1

    def config(self) -> dict[str, Any]:
        """Return the settings in JSON types."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def key(self) -> str:
        """Return a short name for these settings."""
        return digest(self.config())

    def model_key(self) -> str:
        """Return a short name for the settings that the model is loaded with."""
        names = ("model", "model_options", "dtype", "device", "positions")
        return digest({name: getattr(self, name) for name in names})


@dataclass(frozen=True, slots=True)
class Budget:
    """What a cell's settings were solved for.

    Attributes
    ----------
    measure, target
        What is counted, and the share wanted.
    tolerance
        How far from the target counts as reached.
    reached
        The share on the questions that were held out for solving; None before solving.
    note
        Why the target cannot be reached, in words for people; empty if it can.
    """

    measure: Measure
    target: float
    tolerance: float = 0.005
    reached: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a grid.

    Attributes
    ----------
    setup
        Model, benchmark and frames.
    label
        Name of its row in a table: the row's name in the grid and the values of what is swept.
    row
        Name of the row that it comes from.
    reducers
        Reducers as they would stand in YAML, composed in order, every setting written out.
    seed
        Of their random choices.
    frames_share, size_share
        Input down-sampling: shares of the frames, and of a frame's width and height, that the
        model is shown.
    summary
        The settings that were written out, for people.
    budget
        What the settings were solved for, if they were.
    """

    setup: Setup
    label: str
    row: str
    reducers: tuple[Mapping[str, Any], ...]
    seed: int = 0
    frames_share: float = 1.0
    size_share: float = 1.0
    summary: str = ""
    budget: Budget | None = None

    @property
    def reducer(self) -> str:
        """Names of the reducers, joined by ``+`` in the order they act."""
        return "+".join(stage["use"] for stage in self.reducers)

    @property
    def downsampled(self) -> bool:
        """Whether the model is shown less than the whole input."""
        return self.frames_share != 1 or self.size_share != 1

    def config(self) -> dict[str, Any]:
        """Return everything that its answers depend on, in JSON types."""
        return {
            "setup": self.setup.config(),
            "reducers": [dict(stage) for stage in self.reducers],
            "seed": self.seed,
            "frames_share": self.frames_share,
            "size_share": self.size_share,
        }

    def key(self, fingerprint: Mapping[str, str]) -> str:
        """Return what the cell is known by: equal for equal configuration, code and weights.

        Parameters
        ----------
        fingerprint
            Of code and weights; see :mod:`tokenreduce.fingerprint`.
        """
        return digest({"config": self.config(), "fingerprint": dict(fingerprint)})

    def solved(self, reducers: Sequence[Mapping[str, Any]], budget: Budget) -> Cell:
        """Return the cell with the settings that a budget asked for."""
        return replace(self, reducers=tuple(reducers), budget=budget)


def digest(value: Any) -> str:
    """Return 32 hexadecimal digits that stand for a value in JSON types, whatever its key order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
