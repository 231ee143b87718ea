"""Setups of a grid: models, benchmarks, frames, their sweeps written out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenreduce.ablations.conditions import (
    Condition,
    check_names,
    defaults,
    parse_conditions,
    selected,
)
from tokenreduce.ablations.options import GridSettings
from tokenreduce.ablations.rows import CONDITIONS
from tokenreduce.ablations.sweeps import Space, find_space
from tokenreduce.cells import Setup
from tokenreduce.config import (
    EMBEDDED_BENCHMARK,
    EMBEDDED_MODEL,
    Classes,
    benchmark_settings,
    check_model,
    parse_benchmark,
    written,
)
from tokenreduce.labels import swept_label
from tokenreduce.problems import Report, build, sweeps

_APART = ("reducers", "budget", *CONDITIONS)
_ONE_VALUE = ("seeds", "limit", "plugins", "timing", "pictures", "baselines")
OF_SETUP = ("model_options", "dtype", "device", "positions", "max_new_tokens", "frames", "turn")
"""Settings of a setup besides its model and its benchmark."""


@dataclass(frozen=True, slots=True)
class Setups:
    """What a grid stands for besides its reducers and its budget.

    Attributes
    ----------
    space
        Its settings with their sweeps.
    only, besides
        Its conditions.
    """

    space: Space
    only: tuple[Condition, ...]
    besides: tuple[Condition, ...]

    def setups(
        self, classes: Classes, report: Report, notes: list[str]
    ) -> list[tuple[Setup, GridSettings]]:
        """Return each setup with its settings, checked; reports what is wrong with them.

        Parameters
        ----------
        classes
            What names of benchmarks stand for.
        report
            Collects the problems.
        notes
            Takes a line for each setup that stands twice in the grid.
        """
        variants = list(self.space.variants())
        settings = [_with_defaults(each.node, classes) for each in variants]
        found = Report()
        check_names((*self.only, *self.besides), settings, found)
        if self.space.sound and not found.problems:
            items = list(zip(variants, settings, strict=True))
            variants = selected(items, self.only, self.besides, found)
            if not variants:
                found.add((), "the conditions of the grid leave none of its cells: change them.")
        unique: dict[str, tuple[Setup, GridSettings]] = {}
        for variant in variants:
            made = _setup(variant.node, classes, found)
            if made is not None and unique.setdefault(made[0].key(), made) is not made:
                which = swept_label("the setup", variant.chosen)
                notes.append(f"{which} stands twice in the grid and counts once.")
        report.take(found, besides=self.space.broken)
        return list(unique.values())


def parse_setups(data: Mapping[str, Any], report: Report) -> Setups:
    """Return the setups of a grid; reports what is wrong with their sweeps and conditions."""
    node = {key: value for key, value in data.items() if key not in _APART}
    node.setdefault("benchmark", EMBEDDED_BENCHMARK)
    for key in _ONE_VALUE:
        for path in sweeps(node.get(key), (key,)):
            report.add(path, "a sweep cannot stand here: a grid takes one value.")
            node.pop(key, None)
    only = parse_conditions(data.get("only"), ("only",), report)
    besides = parse_conditions(data.get("except"), ("except",), report)
    space = find_space(node, data.get("zip"), (), ("zip",), report)
    return Setups(space, only, besides)


def _setup(
    node: Mapping[str, Any], classes: Classes, report: Report
) -> tuple[Setup, GridSettings] | None:
    common = {key: value for key, value in node.items() if key != "benchmark"}
    names = (*GridSettings.model_fields, "benchmark", *_APART)
    settings = build(GridSettings, common, (), report, known=names)
    check_model(node.get("model", EMBEDDED_MODEL), report)
    benchmark = parse_benchmark(node["benchmark"], classes, report)
    if settings is None or benchmark is None:
        return None
    values = {name: getattr(settings, name) for name in OF_SETUP}
    return Setup(settings.model, written(benchmark), **values), settings


def _with_defaults(node: Mapping[str, Any], classes: Classes) -> dict[str, Any]:
    """Return the settings of a setup with every default written out, for conditions to match."""
    given = benchmark_settings(node["benchmark"], classes)
    benchmark = given if isinstance(given, dict) else {}
    name = benchmark.get("use", EMBEDDED_BENCHMARK)
    cls = classes.benchmarks.get(name) if isinstance(name, str) else None
    whole = {"use": name, **(defaults(cls) if cls else {}), **benchmark}
    settings = {**defaults(GridSettings), **node, "benchmark": whole}
    return {key: value for key, value in settings.items() if key not in _ONE_VALUE}
