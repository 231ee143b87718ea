"""Which cells stand in which table and row, and what tells the tables apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenreduce.cells import Budget, Cell, Setup
from tokenreduce.errors import ConfigError
from tokenreduce.labels import value_text
from tokenreduce.names import suggestion


@dataclass(frozen=True, slots=True)
class TableCells:
    """The cells of one setup, and of one budget target if there is one.

    Attributes
    ----------
    setup
        What they have in common.
    budget
        Its measure, target and tolerance.
    rows
        Label to key and cell, one for each seed, in the order of the grid.
    """

    setup: Setup
    budget: Budget | None = None
    rows: dict[str, list[tuple[str, Cell]]] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """Return the settings of the table in JSON types, its budget's target among them."""
        measure, target = (self.budget.measure, self.budget.target) if self.budget else (None, None)
        return {**self.setup.config(), "measure": measure, "target": target}


def group(cells: Sequence[tuple[str, Cell]]) -> list[TableCells]:
    """Sort cells into tables; a cell without a budget stands in every table of its setup."""
    tables: list[TableCells] = []
    setups = {cell.setup.key(): cell.setup for _, cell in cells}
    for name, setup in setups.items():
        own = [(key, cell) for key, cell in cells if cell.setup.key() == name]
        budgets = {(c.budget.measure, c.budget.target): c.budget for _, c in own if c.budget}
        for budget in budgets.values() or [None]:
            table = TableCells(setup, budget)
            for key, cell in own:
                if _belongs(cell, budget):
                    table.rows.setdefault(cell.label, []).append((key, cell))
            tables.append(table)
    return tables


def _belongs(cell: Cell, budget: Budget | None) -> bool:
    if cell.budget is None or budget is None:
        return True
    return (cell.budget.measure, cell.budget.target) == (budget.measure, budget.target)


def varied(tables: Sequence[TableCells]) -> dict[str, list[str]]:
    """Return the settings that tables differ in, each with its different values for people."""
    known = [table.settings() for table in tables]
    values = {
        name: list(dict.fromkeys(value_text(settings[name]) for settings in known))
        for name in (known[0] if known else ())
    }
    return {name: texts for name, texts in values.items() if len(texts) > 1}


def choose(tables: Sequence[TableCells], wanted: Mapping[str, Any]) -> int:
    """Return the index of the one table that has the wanted settings.

    Raises
    ------
    ConfigError
        If there is no such setting, or not exactly one such table.
    """
    if not tables:
        raise ConfigError("there are no tables: the results file holds no cell.")
    known = [table.settings() for table in tables]
    for name in wanted:
        if name not in known[0]:
            raise ConfigError(f"'{name}' is no setting of a table; {suggestion(name, known[0])}")
    found = [
        index
        for index, settings in enumerate(known)
        if all(_same(settings[name], value) for name, value in wanted.items())
    ]
    if len(found) == 1:
        return found[0]
    given = ", ".join(f"{name}={value_text(value)}" for name, value in wanted.items())
    differ = "; ".join(f"{name}: {', '.join(texts)}" for name, texts in varied(tables).items())
    raise ConfigError(
        f"{len(found)} of {len(tables)} tables have {given or 'what was asked for (nothing)'}: "
        f"say which one by {differ or 'leaving the settings out'}."
    )


def _same(value: Any, wanted: Any) -> bool:
    if isinstance(value, Mapping) and isinstance(wanted, str):
        return value.get("use") == wanted
    return bool(value == wanted)


def find(table: TableCells, name: str) -> int:
    """Return the index of the row with this label, or of the one label of this row of the grid.

    Raises
    ------
    ConfigError
        If there is no such row, or several labels.
    """
    labels = list(table.rows)
    if name in labels:
        return labels.index(name)
    named = [label for label in labels if table.rows[label][0][1].row == name]
    if len(named) > 1:
        raise ConfigError(f"'{name}' has {len(named)} rows: name one of {', '.join(named)}.")
    if not named:
        raise ConfigError(f"there is no row '{name}'; {suggestion(name, labels)}")
    return labels.index(named[0])
