"""Conditions: which of a grid's configurations to leave out, and which alone to keep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from tokenreduce.names import suggestion
from tokenreduce.problems import Path, Report, shown

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Condition:
    """Partial settings.

    Attributes
    ----------
    path
        Where they stand in the configuration.
    wanted
        Name of a setting to its value: a scalar, a list of which any will do, ``{from, to}`` with
        both ends, or a mapping that must be part of the setting's.
    """

    path: Path
    wanted: Mapping[str, Any]

    def matches(self, settings: Any) -> bool:
        """Return whether ``settings`` have all the values that are wanted."""
        return all(_matches(wanted, _find(settings, name)) for name, wanted in self.wanted.items())


def parse_conditions(data: Any, path: Path, report: Report) -> tuple[Condition, ...]:
    """Return the conditions in a list of partial settings; reports what is wrong with it."""
    if data is None:
        return ()
    if not isinstance(data, list):
        report.add(path, f"{shown(data)} is no list of partial settings, such as [{{ratio: 0.5}}].")
        return ()
    found = []
    for number, entry in enumerate(data):
        if isinstance(entry, dict) and entry:
            wanted = {str(name): value for name, value in entry.items()}
            _check_ranges(wanted, (*path, number), report)
            found.append(Condition((*path, number), wanted))
        else:
            report.add(
                (*path, number), f"{shown(entry)} is no partial setting: write {{ratio: 0.5}}."
            )
    return tuple(found)


def defaults(cls: type[BaseModel]) -> dict[str, Any]:
    """Return the settings of a class that have a default, as they would stand in YAML."""
    fields = {
        name: field.get_default(call_default_factory=True)
        for name, field in cls.model_fields.items()
        if not field.is_required()
    }
    return {name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()}


def check_names(conditions: Sequence[Condition], settings: Sequence[Any], report: Report) -> None:
    """Report names that are no setting in any of ``settings``, every default written out."""
    for condition in conditions:
        for name in condition.wanted:
            if all(_find(each, name) is _MISSING for each in settings):
                known = dict.fromkeys(name for each in settings for name in _names(each))
                hint = suggestion(name, known)
                report.add(condition.path, f"no setting is called '{name}': {hint}")


def selected(
    items: Sequence[tuple[Item, Any]],
    only: Sequence[Condition],
    besides: Sequence[Condition],
    report: Report,
) -> list[Item]:
    """Return the items that conditions leave; reports conditions that match nothing.

    Parameters
    ----------
    items
        Each with its settings, every default written out.
    only
        At least one of them must match, if there are any.
    besides
        None of them may match.
    report
        Collects the problems.
    """
    for condition in (*only, *besides):
        if not any(condition.matches(settings) for _, settings in items):
            report.add(
                condition.path, f"{shown(dict(condition.wanted))} matches nothing: leave it out."
            )
    return [
        item
        for item, settings in items
        if (not only or any(each.matches(settings) for each in only))
        and not any(each.matches(settings) for each in besides)
    ]


_MISSING = object()


def _check_ranges(wanted: Mapping[str, Any], path: Path, report: Report) -> None:
    for name, value in wanted.items():
        if _is_range(value):
            for end, number in value.items():
                if not _is_number(number):
                    report.add((*path, name, end), f"{shown(number)} is no number.")


def _find(node: Any, name: str) -> Any:
    for part in name.split("."):
        if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, dict) and part in node:
            node = node[part]
        else:
            return _MISSING
    return node


def _names(node: Any, above: str = "") -> Iterator[str]:
    """Yield the names of settings, those of composed reducers with their number in front."""
    parts = enumerate(node) if isinstance(node, list) else node.items()
    for part, value in parts:
        if isinstance(node, list) and isinstance(value, dict):
            yield from _names(value, f"{part}.")
        else:
            yield f"{above}{part}"


def _matches(wanted: Any, value: Any) -> bool:
    if value is _MISSING:
        return False
    if isinstance(wanted, list):
        return any(_matches(each, value) for each in wanted)
    if _is_range(wanted):
        return _within(wanted, value)
    if isinstance(wanted, dict):
        return isinstance(value, dict) and all(
            _matches(each, value.get(name, _MISSING)) for name, each in wanted.items()
        )
    if isinstance(value, dict):
        return bool(wanted == value.get("use"))
    return _same(wanted, value)


def _is_range(wanted: Any) -> bool:
    return isinstance(wanted, dict) and bool(wanted) and set(wanted) <= {"from", "to"}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _within(wanted: Mapping[str, Any], value: Any) -> bool:
    low, high = wanted.get("from", value), wanted.get("to", value)
    return all(map(_is_number, (low, value, high))) and bool(low <= value <= high)


def _same(wanted: Any, value: Any) -> bool:
    # True is no 1 here.
    return isinstance(wanted, bool) == isinstance(value, bool) and bool(wanted == value)
