"""Rows of a grid: what stands under ``reducers``, its sweeps written out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenreduce.ablations.conditions import (
    Condition,
    check_names,
    defaults,
    parse_conditions,
    selected,
)
from tokenreduce.ablations.sweeps import Space, Variant, find_space
from tokenreduce.cells import digest
from tokenreduce.config import BASELINE, Classes, parse_row, written
from tokenreduce.labels import summary, swept_label
from tokenreduce.problems import Path, Report

CONDITIONS = ("zip", "only", "except")
"""Keys that stand beside sweeps."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table.

    Attributes
    ----------
    label, row
        As of a :class:`tokenreduce.cells.Cell`.
    reducers
        Reducers as they would stand in YAML, every setting written out.
    summary
        The settings that were written out, for people.
    frames_share, size_share
        As of a :class:`tokenreduce.cells.Cell`.
    """

    label: str
    row: str
    reducers: tuple[Mapping[str, Any], ...]
    summary: str = ""
    frames_share: float = 1.0
    size_share: float = 1.0

    @property
    def baseline(self) -> bool:
        """Whether it is the unreduced model that sees the whole input."""
        names = [stage["use"] for stage in self.reducers]
        return names == [BASELINE] and self.frames_share == self.size_share == 1

    def key(self) -> str:
        """Return what is equal for rows whose cells are equal."""
        return digest([list(map(dict, self.reducers)), self.frames_share, self.size_share])


@dataclass(frozen=True, slots=True)
class Family:
    """What one label under ``reducers`` stands for.

    Attributes
    ----------
    label
        Name of the row.
    space
        Its settings with their sweeps.
    below
        Where in the row the settings stand.
    only, besides
        Its conditions.
    """

    label: str
    space: Space
    below: Path = ()
    only: tuple[Condition, ...] = ()
    besides: tuple[Condition, ...] = ()

    def rows(self, classes: Classes, report: Report) -> list[Row]:
        """Return the rows, each checked; reports what is wrong with them."""
        variants = list(self.space.variants())
        settings = [_with_defaults(self.label, each.node, classes) for each in variants]
        found = Report()
        check_names((*self.only, *self.besides), settings, found)
        if self.space.sound and not found.problems:
            items = list(zip(variants, settings, strict=True))
            variants = selected(items, self.only, self.besides, found)
            if not variants:
                found.add(
                    ("reducers", self.label),
                    "its conditions leave none of its cells: change them, or leave out the row.",
                )
        rows = [self._row(variant, classes, found) for variant in variants]
        # What is no sweep is no valid setting either, which says nothing new.
        report.take(found, besides=self.space.broken)
        return rows

    def _row(self, variant: Variant, classes: Classes, report: Report) -> Row:
        made: Any = parse_row(self.label, variant.node, classes, report, self.below)
        label = swept_label(self.label, variant.chosen)
        stages = tuple(written(stage) for stage in made)
        return Row(label, self.label, stages, summary(self.label, made))


def parse_family(label: str, value: Any, report: Report) -> Family:
    """Return what a label stands for; reports what is wrong with its sweeps and conditions.

    Parameters
    ----------
    label, value
        What stands under ``reducers``. Beside its settings a mapping may hold ``zip``, ``only`` and
        ``except``; a list that needs them stands under ``use``.
    report
        Collects the problems.
    """
    path: Path = ("reducers", label)
    node: Any = value
    below: Path = ()
    beside: dict[str, Any] = {}
    if isinstance(value, dict):
        beside = {key: value[key] for key in CONDITIONS if key in value}
        node = {key: each for key, each in value.items() if key not in CONDITIONS}
        if isinstance(node.get("use"), list):
            for key in node:
                if key != "use":
                    report.add((*path, key), "settings of composed reducers stand in their list.")
            node, below = node["use"], ("use",)
    only = parse_conditions(beside.get("only"), (*path, "only"), report)
    besides = parse_conditions(beside.get("except"), (*path, "except"), report)
    space = find_space(node, beside.get("zip"), (*path, *below), (*path, "zip"), report)
    return Family(label, space, below, only, besides)


def without_equals(rows: Sequence[Row], report: Report, notes: list[str]) -> list[Row]:
    """Return the rows, the baseline first and no two equal.

    Parameters
    ----------
    rows
        Rows of one table.
    report
        Is told of different rows with one label.
    notes
        Takes a line for each row that is left out.
    """
    ordered = sorted(rows, key=lambda row: not row.baseline)
    by_key: dict[str, Row] = {}
    labels: set[str] = set()
    for row in ordered:
        first = by_key.setdefault(row.key(), row)
        if first is not row:
            same = "stands twice" if row.label == first.label else f"is the same as '{first.label}'"
            notes.append(f"'{row.label}' {same} in the grid and counts once.")
        elif row.label in labels:
            report.add(
                ("reducers", row.row), f"two rows are called '{row.label}': rename one of them."
            )
        labels.add(row.label)
    return list(by_key.values())


def input_baselines(target: float | None) -> list[Row]:
    """Return the rows that show the unreduced model less of the input.

    Parameters
    ----------
    target
        Share of the visual tokens that is wanted; None: half of the frames, or of the sides.
    """
    frames = 0.5 if target is None else target
    side = 0.5 if target is None else round(math.sqrt(target), 4)
    keep_all = ({"use": BASELINE},)
    few, small = "fewer frames", "smaller frames"
    return [
        Row(few, few, keep_all, f"frames_share={frames:.4g}", frames_share=frames),
        Row(small, small, keep_all, f"size_share={side:.4g}", size_share=side),
    ]


def free_label(wanted: str, rows: Sequence[Row]) -> str:
    """Return ``wanted``, or a label like it that no row has."""
    taken = {row.label for row in rows}
    return next(
        label
        for label in (wanted, *(f"{wanted} ({number})" for number in range(2, len(taken) + 3)))
        if label not in taken
    )


def check_budgeted(family: Family, row: Row, classes: Classes, report: Report) -> None:
    """Report a sweep over the setting that a budget turns.

    Parameters
    ----------
    family, row
        Where the sweep may be, and one of its rows.
    classes
        What names of reducers stand for.
    report
        Collects the problems.
    """
    if len(row.reducers) != 1:
        return
    turned = getattr(classes.reducers[row.reducers[0]["use"]], "budget_fields", {})
    for axis in family.space.axes:
        if axis.name in turned:
            report.add(
                ("reducers", family.label, axis.name),
                "the budget turns this setting: leave out the sweep, or the budget.",
            )


def _with_defaults(label: str, node: Any, classes: Classes) -> Any:
    """Return settings with every default written out, for conditions to match."""
    if isinstance(node, list):
        return [_with_defaults("", stage, classes) for stage in node]
    values = node if isinstance(node, dict) else {}
    name = values.get("use", label)
    cls = classes.reducers.get(name) if isinstance(name, str) else None
    return {"use": name, **(defaults(cls) if cls else {}), **values}
