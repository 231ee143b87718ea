"""Knobs: the settings of composed reducers that a budget is met with, over a grid of values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tokenreduce.reducer import Reducer
from tokenreduce.schedule import exact

GRAIN = Fraction(1, 10_000)
"""Values of a setting that is no integer are this far apart: four decimals."""

COARSE = 10
"""So many steps lie between values of three decimals, which is enough for a mean over data."""


@dataclass(frozen=True, slots=True)
class Knob:
    """One setting of one reducer of a list; step ``k`` is the ``k``-th of its values from below.

    Attributes
    ----------
    stage
        Place of the reducer in the list, from 0.
    field
        Name of the setting.
    low, high
        Bounds, both included.
    whole
        Whether the setting is an integer.
    """

    stage: int
    field: str
    low: float
    high: float
    whole: bool

    @property
    def last(self) -> int:
        """The highest step."""
        return int((exact(self.high) - exact(self.low)) / self._grain)

    def value(self, step: int) -> float | int:
        """Return the value of a step."""
        value = exact(self.low) + step * self._grain
        return int(value) if self.whole else float(value)

    def step_of(self, value: float) -> int:
        """Return the step whose value is nearest to ``value``."""
        step = round((exact(value) - exact(self.low)) / self._grain)
        return min(max(step, 0), self.last)

    def turned(self, reducers: Sequence[Reducer], step: int) -> tuple[Reducer, ...]:
        """Return the reducers with this setting at a step.

        A list of values, one for each layer, becomes one value for all.
        """
        reducer = reducers[self.stage]
        settings = {**reducer.model_dump(), self.field: self.value(step)}
        return (
            *reducers[: self.stage],
            type(reducer).model_validate(settings),
            *reducers[self.stage + 1 :],
        )

    def written(self, reducers: Sequence[Reducer]) -> str:
        """Return where the knob stands in a list: ``ratio=0.3``, with its reducer if composed."""
        reducer: Any = reducers[self.stage]
        value = getattr(reducer, self.field)
        said = f"{self.field}={value}"
        return said if len(reducers) == 1 else f"{reducer.name} {said}"

    @property
    def _grain(self) -> Fraction:
        return Fraction(1) if self.whole else GRAIN


def knobs_of(reducers: Sequence[Reducer]) -> list[Knob]:
    """Return what may be turned, in order: the last reducer's settings first."""
    return [
        Knob(stage, name, low, high, type(reducer).model_fields[name].annotation is int)
        for stage, reducer in reversed(list(enumerate(reducers)))
        for name, (low, high) in reducer.budget_fields.items()
    ]
