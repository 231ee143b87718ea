"""Recipes: a grid for each table and figure of the paper, and for what its reviewers asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from tokenreduce.config import EMBEDDED_MODEL
from tokenreduce.errors import ConfigError
from tokenreduce.names import suggestion
from tokenreduce.overrides import apply_overrides, read_yaml
from tokenreduce.paper.published import AVERAGE, SETTINGS, TABLES, Published


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one name after ``tokenreduce paper`` stands for.

    Attributes
    ----------
    name
        On the command line; its grid is ``data/paper/NAME.yaml``.
    answers
        The question that it answers, in one line.
    table
        Table of the paper; None: the paper has none, only its reviewers asked.
    headline
        The table's column that stands for the row where the benchmark is none of the paper's.
    figure
        Number of the figure that it draws.
    """

    name: str
    answers: str
    table: int | None = None
    headline: str = ""
    figure: int | None = None

    @property
    def published(self) -> Mapping[str, Sequence[Published]]:
        """The paper's models to their rows, the unreduced one first."""
        return {} if self.table is None else TABLES[self.table]

    @property
    def text(self) -> str:
        """The grid as it is shipped, to be read and copied."""
        file = resources.files("tokenreduce") / "data" / "paper" / f"{self.name}.yaml"
        return file.read_text(encoding="utf-8")

    def grid(self) -> dict[str, Any]:
        """Return the grid as it is shipped."""
        file = resources.files("tokenreduce") / "data" / "paper" / f"{self.name}.yaml"
        with resources.as_file(file) as path:
            return read_yaml(path)


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("table1", "all methods at the paper's settings", 1, AVERAGE),
        Recipe("table2", "how fast VAS can make a deep model", 2, "VideoMME"),
        Recipe("table3", "VAS beside random and averages in two phases", 3, "VideoMME"),
        Recipe("table4", "ratio and interval of VAS", 4, "MVBench"),
        Recipe("table5", "all methods on long videos", 5, "LongVideoBench"),
        Recipe("table6", "a conservative VAS beside FastV on a deep model", 6, "VideoMME"),
        Recipe("figure2", "attention to frames over layers", figure=2),
        Recipe("figure3", "attention by frame and layer, with and without VAS", figure=3),
        Recipe("axes", "VAS on frames alone, on positions alone, and with the choice of both"),
        Recipe("start-layer", "where VAS starts"),
        Recipe("coefficients", "the score of VAS, and relative against absolute levels"),
        Recipe("second-turn", "what is left for a second question"),
        Recipe("clip-length", "accuracy over the length of the clip"),
    )
}
"""Every recipe by its name."""


def find_recipe(name: str) -> Recipe:
    """Return a recipe by its name.

    Raises
    ------
    ConfigError
        If there is none of that name.
    """
    if name not in RECIPES:
        raise ConfigError(f"no recipe is called '{name}': {suggestion(name, RECIPES)}")
    return RECIPES[name]


def filled(
    recipe: Recipe,
    *,
    model: str = EMBEDDED_MODEL,
    known: str | None = None,
    benchmark: str | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Return a recipe's grid for a model and a benchmark.

    Parameters
    ----------
    recipe
        Whose.
    model
        ``embedded``, or the folder of a checkpoint.
    known
        Which of the paper's models that is; what the recipe leaves open is then set as there.
    benchmark
        As on the command line; None: the recipe's own. Another one is asked all its questions.
    overrides
        ``path=value``, which come last.
    """
    data = {**recipe.grid(), "model": model}
    if known is not None:
        own = SETTINGS[known]
        data["reducers"] = {
            label: {**own.get((row or {}).get("use", label), {}), **(row or {})}
            for label, row in data["reducers"].items()
        }
    if benchmark is not None:
        data["benchmark"] = benchmark
        if recipe.figure is None:
            data["limit"] = None
    return apply_overrides(data, overrides)
