"""Grids: from YAML with sweeps to the cells that they stand for, with all errors at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tokenreduce.ablations.options import (
    BudgetSettings,
    Timing,
    parse_budgets,
)
from tokenreduce.ablations.rows import (
    Family,
    Row,
    check_budgeted,
    free_label,
    input_baselines,
    parse_family,
    without_equals,
)
from tokenreduce.ablations.setups import parse_setups
from tokenreduce.ablations.sweeps import MOST, Space
from tokenreduce.cells import Budget, Cell, Setup
from tokenreduce.config import (
    BASELINE,
    Classes,
    PluginSettings,
    labelled_rows,
    report_taken_label,
    written,
)
from tokenreduce.labels import summary
from tokenreduce.problems import Report

RANDOM = "random"
"""The reducer of the row that `baselines: true` adds."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A checked grid.

    Attributes
    ----------
    cells
        In the order of their tables, the baseline of a table first; those with a budget are not
        solved yet.
    timing
        The timing pass; None: there is none.
    pictures
        How many questions to draw, evenly spread.
    limit
        At most so many questions of a benchmark, evenly spread; None: all.
    slice
        Share of the videos that budgets are solved on; None: there is no budget.
    plugins
        Which plugins to leave out.
    notes
        What was left out of the grid and why, for people.
    """

    cells: tuple[Cell, ...]
    timing: Timing | None = None
    pictures: int = 0
    limit: int | None = None
    slice: float | None = None
    plugins: PluginSettings = field(default_factory=PluginSettings)
    notes: tuple[str, ...] = ()


def parse_grid(data: Mapping[str, Any], classes: Classes, source: str) -> Grid:
    """Check a whole grid, and write out its cells.

    Parameters
    ----------
    data
        The mapping that was read, overrides applied. A configuration of ``compare`` is one too.
    classes
        What the names in it stand for.
    source
        What to call it in an error, such as its file name.

    Raises
    ------
    ConfigError
        With everything that is wrong: a line each with its path, value and nearest valid name.
    """
    return _Parser(data, classes, source).parse()


class _Parser:
    def __init__(self, data: Mapping[str, Any], classes: Classes, source: str) -> None:
        self.data, self.classes, self.source = data, classes, source
        self.report, self.notes = Report(), list[str]()

    def parse(self) -> Grid:
        report = self.report
        budgets = parse_budgets(self.data.get("budget"), report)
        parsed = parse_setups(self.data, report)
        given = labelled_rows(self.data.get("reducers"), report)
        families = [parse_family(label, value, report) for label, value in given.items()]
        self._check_size(parsed.space, families, len(budgets))
        setups = parsed.setups(self.classes, report, self.notes)
        rows = self._rows(families, bool(budgets))
        shown = [self._table_rows(rows, budget) for budget in budgets or (None,)]
        report.raise_if_any(self.source)
        options = setups[0][1]
        cells = [
            cell
            for setup, _ in setups
            for cell in self._cells(setup, options.seeds, shown, budgets)
        ]
        return Grid(
            tuple(cells),
            options.timing,
            options.pictures.samples if options.pictures else 0,
            options.limit,
            budgets[0].slice if budgets else None,
            options.plugins,
            tuple(dict.fromkeys(self.notes)),
        )

    def _check_size(self, spaces: Space, families: Sequence[Family], budgets: int) -> None:
        seeds = self.data.get("seeds")
        passes = len(seeds) if isinstance(seeds, list) else 1
        rows = sum(len(family.space) for family in families)
        count = len(spaces) * rows * max(budgets, 1) * passes
        if count > MOST:
            self.report.add((), f"{count:,} cells before conditions: {MOST:,} are the most.")
            self.report.raise_if_any(self.source)

    def _rows(self, families: Sequence[Family], budgeted: bool) -> list[Row]:
        rows: list[Row] = []
        for family in families:
            made = family.rows(self.classes, self.report)
            rows.extend(made)
            if budgeted and made:
                check_budgeted(family, made[0], self.classes, self.report)
        if any(row.baseline for row in rows):
            return rows
        if BASELINE not in self.classes.reducers:
            self.report.add(("reducers",), f"there is no '{BASELINE}', which every table needs.")
        elif any(row.label == BASELINE for row in rows):
            report_taken_label(self.report)
            return rows
        return [Row(BASELINE, BASELINE, ({"use": BASELINE},)), *rows]

    def _table_rows(self, rows: Sequence[Row], budget: BudgetSettings | None) -> list[Row]:
        if self.data.get("baselines") is True:
            rows = [*rows, *self._added(rows, None if budget is None else budget.target)]
        return without_equals(rows, self.report, self.notes)

    def _added(self, rows: Sequence[Row], target: float | None) -> Iterator[Row]:
        """Yield the rows that `baselines: true` adds."""
        added = input_baselines(target)
        if (cls := self.classes.reducers.get(RANDOM)) is None:
            self.report.add(
                ("baselines",), f"there is no reducer '{RANDOM}', which is one of them."
            )
        else:
            made: Any = cls()
            added.insert(0, Row(RANDOM, RANDOM, (written(made),), summary(RANDOM, [made])))
        there = {row.key() for row in rows}
        for row in added:
            if row.key() not in there:
                yield replace(row, label=free_label(row.label, rows))

    def _cells(
        self,
        setup: Setup,
        seeds: Sequence[int],
        shown: Sequence[Sequence[Row]],
        budgets: Sequence[BudgetSettings],
    ) -> Iterator[Cell]:
        once = dict.fromkeys(seeds)
        if len(once) < len(seeds):
            self.notes.append("a seed stands twice in the grid and counts once.")
        for number, rows in enumerate(shown):
            budget = budgets[number] if budgets else None
            for row in rows:
                if row.baseline and number:
                    continue  # one baseline serves all tables of a setup
                for seed in once:
                    yield _cell(setup, row, seed, None if row.baseline else budget)


def _cell(setup: Setup, row: Row, seed: int, budget: BudgetSettings | None) -> Cell:
    wanted = None
    if budget is not None:
        wanted = Budget(budget.measure, budget.target, budget.tolerance)
    return Cell(
        setup,
        row.label,
        row.row,
        row.reducers,
        seed,
        row.frames_share,
        row.size_share,
        summary=row.summary,
        budget=wanted,
    )
