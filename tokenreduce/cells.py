"""The rows of a comparison: labelled, composed reducers, the unreduced baseline first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tokenreduce.config import BASELINE
from tokenreduce.store import Cell

if TYPE_CHECKING:
    from tokenreduce.reducer import Reducer

Reducers = Mapping[str, Sequence["Reducer"]]
"""Label to the reducers that are composed in order."""


def with_baseline(rows: Reducers) -> dict[str, Sequence[Reducer]]:
    """Return the rows with an unreduced one in front, which is added if there is none."""
    baselines = [k for k, reducers in rows.items() if [r.name for r in reducers] == [BASELINE]]
    first: Reducers = {label: rows[label] for label in baselines[:1]} or {BASELINE: ()}
    return {**first, **{label: row for label, row in rows.items() if label not in first}}


def describe(label: str, reducers: Sequence[Reducer]) -> Cell:
    """Say what a row's reducers are, in JSON types and for people."""
    settings: list[dict[str, Any]] = [r.model_dump(mode="json") for r in reducers]
    names = [reducer.name for reducer in reducers] or [BASELINE]
    if len(reducers) > 1:
        composed = [{"use": n, **values} for n, values in zip(names, settings, strict=True)]
        summary = " + ".join(f"{r.name}({_written(r, ', ')})" for r in reducers)
        return Cell(label, "+".join(names), composed, summary)
    summary = " ".join(_written(r, " ") for r in reducers)
    shown = summary if label == names[0] else f"{names[0]} {summary}".strip()
    return Cell(label, names[0], settings[0] if settings else {}, shown)


def _written(reducer: Reducer, separator: str) -> str:
    """Return the settings that were written out, as ``ratio=0.3 start_layer=8``."""
    values = reducer.model_dump(mode="json", include=reducer.model_fields_set, exclude_none=True)
    return separator.join(f"{name}={_shown(value)}" for name, value in values.items())


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return f"[{','.join(map(_shown, value))}]"
    return str(value)
