"""What rows of a table are called, and what their reducers are, in JSON types and for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tokenreduce.config import BASELINE

if TYPE_CHECKING:
    from tokenreduce.reducer import Reducer

Reducers = Mapping[str, Sequence["Reducer"]]
"""Label to the reducers that are composed in order."""


def with_baseline(rows: Reducers) -> dict[str, Sequence[Reducer]]:
    """Return the rows with an unreduced one in front, which is added if there is none."""
    baselines = [k for k, reducers in rows.items() if [r.name for r in reducers] == [BASELINE]]
    first: Reducers = {label: rows[label] for label in baselines[:1]} or {BASELINE: ()}
    return {**first, **{label: row for label, row in rows.items() if label not in first}}


def joined(reducers: Sequence[Reducer]) -> str:
    """Return the names of a row's reducers, joined by ``+`` in the order they act."""
    return "+".join(reducer.name for reducer in reducers) or BASELINE


def settings(reducers: Sequence[Reducer]) -> Any:
    """Return all settings of a row's reducer in JSON types; a list, if there are several."""
    dumps: list[dict[str, Any]] = [reducer.model_dump(mode="json") for reducer in reducers]
    if len(reducers) > 1:
        return [{"use": r.name, **dump} for r, dump in zip(reducers, dumps, strict=True)]
    return dumps[0] if dumps else {}


def summary(label: str, reducers: Sequence[Reducer]) -> str:
    """Return the settings that were written out, as ``ratio=0.3 start_layer=8``.

    The reducer's name is in front where the row's label is another.
    """
    if len(reducers) > 1:
        return " + ".join(f"{r.name}({_written(r, ', ')})" for r in reducers)
    written = " ".join(_written(r, " ") for r in reducers)
    return written if label == joined(reducers) else f"{joined(reducers)} {written}".strip()


def swept_label(row: str, chosen: Sequence[tuple[str, Any]]) -> str:
    """Return a row's name and the values of what is swept in it, as ``vas ratio=0.2``."""
    return " ".join([row, *(f"{name}={value_text(value)}".lstrip("=") for name, value in chosen)])


def value_text(value: Any) -> str:
    """Return a value of a configuration, none of its digits left out."""
    if isinstance(value, Mapping):
        parts = {str(key): value_text(each) for key, each in value.items()}
        name = parts.pop("use", "")
        inside = ",".join(f"{key}={text}" for key, text in parts.items())
        return f"{name}({inside})" if inside else name
    if isinstance(value, list | tuple):
        return f"[{','.join(map(value_text, value))}]"
    return str(value)


def _written(reducer: Reducer, separator: str) -> str:
    values = reducer.model_dump(mode="json", include=reducer.model_fields_set, exclude_none=True)
    return separator.join(f"{name}={_short(value)}" for name, value in values.items())


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return f"[{','.join(map(_short, value))}]"
    return str(value)
