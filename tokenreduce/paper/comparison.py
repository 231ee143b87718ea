"""Our numbers beside the paper's, row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tokenreduce.config import BASELINE
from tokenreduce.paper.published import AVERAGE, BENCHMARKS, Published
from tokenreduce.paper.recipes import Recipe


@dataclass(frozen=True, slots=True)
class Numbers:
    """What one side says about a row; None: nothing.

    Attributes
    ----------
    accuracy
        Share of right answers.
    change
        Of the accuracy against the unreduced model.
    img_memory
        Visual tokens in the cache, as a share of the unreduced.
    ttft_speedup
        Time to first token without reduction over that with it.
    """

    accuracy: float | None = None
    change: float | None = None
    img_memory: float | None = None
    ttft_speedup: float | None = None

    def minus(self, other: Numbers) -> Numbers:
        """Return the differences to another side."""
        mine, theirs = asdict(self), asdict(other)
        return Numbers(**{name: _difference(mine[name], theirs[name]) for name in mine})


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the paper, and ours.

    Attributes
    ----------
    model
        The paper's.
    label
        Of the row in both tables.
    ours, paper
        The two sides.
    failed
        Whether the paper says that no meaningful answers came.
    note
        Why a side has no numbers; empty if both have.
    """

    model: str
    label: str
    ours: Numbers
    paper: Numbers
    failed: bool = False
    note: str = ""

    def document(self) -> dict[str, Any]:
        """Return the line in JSON types."""
        return {**asdict(self), "difference": asdict(self.ours.minus(self.paper))}


def compared(
    recipe: Recipe, known: str | None, column: str, ours: Mapping[str, Numbers]
) -> list[Line]:
    """Set our rows beside the paper's.

    Parameters
    ----------
    recipe
        Which table of the paper.
    known
        The paper's model that ours is; None, or a model without rows there: all of the table's.
    column
        Of the paper's table.
    ours
        Our numbers by row.

    Returns
    -------
    list of Line
        Model by model; rows that only we have come last of each.
    """
    published = recipe.published
    if known is not None and known in published:
        published = {known: published[known]}
    return [line for model, rows in published.items() for line in _lines(model, rows, column, ours)]


def column_of(recipe: Recipe, benchmark: str | None) -> str:
    """Return the paper's column to compare with: our benchmark's, or the recipe's headline."""
    if benchmark is not None and benchmark in columns(recipe):
        return benchmark
    return recipe.headline


def columns(recipe: Recipe) -> list[str]:
    """Return the columns of accuracy that the paper's table has."""
    rows = [row for each in recipe.published.values() for row in each]
    return list(dict.fromkeys(column for row in rows for column in row.scores))


def paper_benchmark(settings: Mapping[str, Any]) -> str | None:
    """Return which of the paper's benchmarks a benchmark with these settings is, if it is one."""
    use = settings.get("use")
    name = f"{use}:{settings['task']}" if "task" in settings else use
    return next((title for title, known in BENCHMARKS.items() if known == name), None)


def described(column: str) -> str:
    """Return a column's name for people."""
    return "average over its benchmarks" if column == AVERAGE else column


def failed_rows(recipe: Recipe) -> list[str]:
    """Return a sentence for each of the paper's models on which a method failed."""
    found = {
        model: [
            f"{row.name} on {', '.join(names)}"
            for row in rows
            if (names := [name for name, score in row.scores.items() if score.accuracy is None])
        ]
        for model, rows in recipe.published.items()
    }
    return [
        f"With {model} the paper says failed, no meaningful answers, of {'; '.join(each)}."
        for model, each in found.items()
        if each
    ]


def _lines(
    model: str, rows: Sequence[Published], column: str, ours: Mapping[str, Numbers]
) -> Iterator[Line]:
    base = next(_accuracy(row, column) for row in rows if row.label == BASELINE)
    for row in rows:
        accuracy = _accuracy(row, column)
        paper = Numbers(accuracy, _difference(accuracy, base), row.img_memory, row.ttft_speedup)
        score = row.scores.get(column)
        yield Line(
            model,
            row.name,
            ours.get(row.name, Numbers()),
            paper,
            failed=score is not None and score.accuracy is None,
            note="" if row.name in ours else "not among our rows",
        )
    there = {row.name for row in rows}
    for label, numbers in ours.items():
        if label not in there:
            yield Line(model, label, numbers, Numbers(), note="not in the paper")


def _accuracy(row: Published, column: str) -> float | None:
    score = row.scores.get(column)
    return None if score is None else score.accuracy


def _difference(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second
