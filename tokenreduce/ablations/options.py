"""The settings of a grid besides what `compare` has: budget, timing, pictures, baselines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tokenreduce.ablations.sweeps import swept_values
from tokenreduce.cells import Measure
from tokenreduce.config import CommonSettings
from tokenreduce.problems import Report, build, is_sweep

MEASURES: tuple[Measure, ...] = ("img_memory", "flops", "kv_bytes")

Target = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class Timing(BaseModel):
    """The timing pass."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: Count = Field(8, description="questions to time, evenly spread")
    repeats: Count = Field(5, description="timed rounds of each; all cells of a table in turns")


class Pictures(BaseModel):
    """What to draw."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: Count = Field(2, description="questions to draw, evenly spread")


class BudgetSettings(BaseModel):
    """The share that every reducer is to meet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    img_memory: Target | None = Field(
        None, description="share of the visual tokens in the KV cache over all layers, in (0, 1)"
    )
    flops: Target | None = Field(None, description="share of the FLOPs of the prefill, in (0, 1)")
    kv_bytes: Target | None = Field(
        None, description="share of the bytes of keys and values after the prefill, in (0, 1)"
    )
    slice: Target = Field(
        0.2, description="share of the videos that are held out to solve on, in (0, 1)"
    )
    tolerance: Target = Field(
        0.005, description="how far from the target counts as reached, in (0, 1)"
    )

    @model_validator(mode="after")
    def _one_measure(self) -> Self:
        given = [name for name in MEASURES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of {', '.join(MEASURES)}")
        return self

    @property
    def measure(self) -> Measure:
        """What is counted."""
        return next(name for name in MEASURES if getattr(self, name) is not None)

    @property
    def target(self) -> float:
        """The share wanted."""
        return float(getattr(self, self.measure))


def _switch(value: Any) -> Any:
    """Let ``true`` stand for the defaults, and ``false`` for none."""
    return {} if value is True else None if value is False else value


class GridSettings(CommonSettings):
    """The settings of a grid besides its benchmark, its reducers and its budget."""

    turn: Literal[1, 2] = Field(
        1,
        description="1: each question is asked first; 2: as a second turn, after another question "
        "about the same clip was asked and answered under the same reducers",
    )
    timing: Annotated[
        Timing | None, BeforeValidator(_switch, json_schema_input_type=Timing | bool | None)
    ] = Field(Timing(), description="the timing pass; false: none")
    pictures: Annotated[
        Pictures | None, BeforeValidator(_switch, json_schema_input_type=Pictures | bool | None)
    ] = Field(None, description="what to draw; false: nothing")
    baselines: Literal[True, False] = Field(
        False, description="whether to add rows: random, fewer frames, smaller frames"
    )


def parse_budgets(data: Any, report: Report) -> tuple[BudgetSettings, ...]:
    """Return the budget of each table, one for each target; reports what is wrong."""
    if data is None or data is False:
        return ()
    values = data if isinstance(data, Mapping) else {"budget": data}
    swept = [name for name in MEASURES if is_sweep(values.get(name))]
    if len(swept) != 1:
        made = [build(BudgetSettings, values, ("budget",), report)]
    else:
        targets = swept_values(values[swept[0]], ("budget", swept[0]), report)
        made = [
            build(BudgetSettings, {**values, swept[0]: target}, ("budget",), report)
            for target in dict.fromkeys(targets)
        ]
    return tuple(budget for budget in made if budget is not None)
