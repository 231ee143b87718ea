"""Sweeps: settings with several values, and the configurations that they stand for together."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any

from tokenreduce.names import suggestion
from tokenreduce.problems import Path, Report, shown, sweeps
from tokenreduce.schedule import exact

MOST = 100_000
"""More values or cells than anybody means."""


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """One sweep.

    Attributes
    ----------
    path
        Where it stands below the settings that it belongs to.
    values
        What the setting is in turn.
    """

    path: Path
    values: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The path with dots, as ``ratio`` or ``0.ratio``."""
        return ".".join(map(str, self.path))


@dataclass(frozen=True, slots=True)
class Variant:
    """Settings with one value in the place of each sweep.

    Attributes
    ----------
    node
        The settings.
    chosen
        Name and value of what was swept.
    """

    node: Any
    chosen: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Space:
    """All configurations that settings with sweeps stand for.

    Attributes
    ----------
    node
        The settings as they were written.
    axes
        Their sweeps.
    groups
        The same; those of one group go together, the groups make a product.
    broken
        Paths in the configuration of sweeps that are none.
    sound
        Whether nothing is wrong with the sweeps and how they go together.
    """

    node: Any
    axes: tuple[Axis, ...] = ()
    groups: tuple[tuple[Axis, ...], ...] = ()
    broken: tuple[Path, ...] = ()
    sound: bool = True

    def __len__(self) -> int:
        """Return the number of configurations; 1 if something is wrong."""
        return math.prod(len(group[0].values) for group in self.groups) if self.sound else 1

    def variants(self) -> Iterator[Variant]:
        """Yield the configurations; the last group's values change fastest.

        If something is wrong, each value still stands in one of them, to be checked.
        """
        if not self.sound:
            yield from self._one_by_one()
            return
        for places in product(*(range(len(group[0].values)) for group in self.groups)):
            place = {
                axis.path: number
                for number, group in zip(places, self.groups, strict=True)
                for axis in group
            }
            yield self._variant({axis: axis.values[place[axis.path]] for axis in self.axes})

    def _one_by_one(self) -> Iterator[Variant]:
        first = {axis: axis.values[0] for axis in self.axes}
        yield self._variant(first)
        for axis in self.axes:
            for value in axis.values[1:]:
                yield self._variant({**first, axis: value})

    def _variant(self, values: Mapping[Axis, Any]) -> Variant:
        node = copy.deepcopy(self.node)
        for axis, value in values.items():
            node = _put(node, axis.path, copy.deepcopy(value))
        return Variant(node, tuple((axis.name, value) for axis, value in values.items()))


def find_space(node: Any, zips: Any, at: Path, zip_at: Path, report: Report) -> Space:
    """Return what settings with sweeps stand for; reports what is wrong with the sweeps.

    Parameters
    ----------
    node
        The settings.
    zips
        Lists of names of sweeps that go together; None: none.
    at, zip_at
        Where the two stand in the configuration.
    report
        Collects the problems.
    """
    before = len(report.problems)
    found = [Axis(path, _values(node, path, at, report)) for path in sweeps(node)]
    axes = tuple(axis for axis in found if axis.values)
    broken = tuple((*at, *axis.path) for axis in found if not axis.values)
    names = {axis.name: axis for axis in axes}
    # With a broken sweep, errors about names would only follow from that one.
    groups = () if broken else _groups(names, zips, zip_at, report)
    return Space(node, axes, groups, broken, sound=len(report.problems) == before)


def swept_values(sweep: Any, at: Path, report: Report) -> tuple[Any, ...]:
    """Return the values of ``{sweep: ...}``; none after reporting what is wrong.

    Parameters
    ----------
    sweep
        A list under ``sweep``, or a range of numbers: ``from``, ``to``, and ``step`` or ``count``.
        Both ends belong to a range, and its decimals are exact.
    at
        Where it stands in the configuration.
    report
        Collects the problems.
    """
    written = sweep["sweep"]
    if isinstance(written, list) and written:
        inside = list(sweeps(written, (*at, "sweep")))
        for path in inside:
            report.add(path, "a sweep cannot stand in a sweep: write out its values.")
        return () if inside else tuple(written)
    if isinstance(written, dict) and set(written) in ({"from", "to", "step"}, _COUNTED):
        return _range(written, at, report)
    report.add(
        at,
        f"{shown(written)} is nothing to sweep: write a list of values, {{from, to, step}} or "
        "{from, to, count}.",
    )
    return ()


_COUNTED = {"from", "to", "count"}


def _values(node: Any, path: Path, at: Path, report: Report) -> tuple[Any, ...]:
    for part in path:
        node = node[part]
    return swept_values(node, (*at, *path), report)


def _range(written: Mapping[str, Any], at: Path, report: Report) -> tuple[Any, ...]:
    for name, value in written.items():
        if not _is_number(value):
            report.add((*at, "sweep", name), f"{shown(value)} is no number.")
            return ()
    first, last = exact(written["from"]), exact(written["to"])
    steps = _steps(written, first, last)
    if isinstance(steps, str):
        report.add((*at, "sweep"), steps)
        return ()
    numbers = [first + (last - first) * step / steps for step in range(steps + 1)]
    whole = not any(isinstance(value, float) for value in written.values())
    if whole and all(number.denominator == 1 for number in numbers):
        return tuple(int(number) for number in numbers)
    return tuple(float(number) for number in numbers)


def _steps(written: Mapping[str, Any], first: Fraction, last: Fraction) -> int | str:
    """Return how many steps a range has, or what is wrong with it."""
    if "count" in written:
        steps = exact(written["count"]) - 1
        if steps.denominator != 1 or steps < 1:
            return f"a range has a whole number of values from 2 on, not {written['count']}."
    else:
        step = exact(written["step"])
        if step == 0 or (last - first) / step < 1:
            return (
                f"steps of {written['step']} do not lead from {written['from']} to {written['to']}."
            )
        steps = (last - first) / step
        if steps.denominator != 1:
            end = float(first + step * int(steps))
            return (
                f"steps of {written['step']} from {written['from']} end at {end}, not at "
                f"{written['to']}: both ends belong to a range."
            )
    if steps >= MOST:
        return f"a range of {int(steps) + 1:,} values: {MOST:,} are the most."
    return int(steps)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _groups(
    axes: Mapping[str, Axis], zips: Any, at: Path, report: Report
) -> tuple[tuple[Axis, ...], ...]:
    if zips is None:
        zips = []
    if not isinstance(zips, list) or not all(isinstance(names, list) for names in zips):
        report.add(at, f"{shown(zips)} is no list of lists of names: write [[ratio, layer]].")
        zips = []
    together: dict[str, tuple[Axis, ...]] = {}
    for number, names in enumerate(zips):
        group = _group(axes, names, (*at, number), together, report)
        together.update(dict.fromkeys((axis.name for axis in group), group))
    # In the order in which the sweeps were written: a group stands where its first one does.
    groups = [together.get(name, (axis,)) for name, axis in axes.items()]
    return tuple({group[0].name: group for group in groups}.values())


def _group(
    axes: Mapping[str, Axis],
    names: Sequence[Any],
    at: Path,
    together: Mapping[str, tuple[Axis, ...]],
    report: Report,
) -> tuple[Axis, ...]:
    group: list[Axis] = []
    for name in map(str, names):
        if name not in axes:
            report.add(at, f"no sweep is called '{name}': {suggestion(name, axes)}")
        elif name in together or any(axis.name == name for axis in group):
            report.add(at, f"'{name}' is zipped twice: leave one out.")
        else:
            group.append(axes[name])
    for axis in group[1:]:
        if len(axis.values) != len(group[0].values):
            report.add(
                at,
                f"'{group[0].name}' has {len(group[0].values)} values and '{axis.name}' has "
                f"{len(axis.values)}: sweeps that go together need as many.",
            )
    return tuple(group)


def _put(node: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    node[path[0]] = _put(node[path[0]], path[1:], value)
    return node
