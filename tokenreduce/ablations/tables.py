"""Tables: the cells that are compared with each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tokenreduce.cells import Cell, Measure, Setup


@dataclass(frozen=True, slots=True)
class Table:
    """Cells of one setup and one budget.

    Attributes
    ----------
    setup
        What they have in common.
    measure, target
        What their settings were solved for; None: nothing.
    cells
        The unreduced ones first.
    """

    setup: Setup
    measure: Measure | None
    target: float | None
    cells: tuple[Cell, ...]


def tables(cells: Iterable[Cell]) -> tuple[Table, ...]:
    """Return the tables that cells make, in their order.

    Cells without a budget, such as those of the baseline, stand in every table of their setup.
    """
    setups: dict[str, list[Cell]] = {}
    for cell in cells:
        setups.setdefault(cell.setup.key(), []).append(cell)
    return tuple(table for group in setups.values() for table in _of_setup(group))


def _of_setup(cells: list[Cell]) -> Iterable[Table]:
    setup = cells[0].setup
    budgets = {(c.budget.measure, c.budget.target): None for c in cells if c.budget is not None}
    if not budgets:
        return [Table(setup, None, None, tuple(cells))]
    return [
        Table(
            setup,
            measure,
            target,
            tuple(
                cell
                for cell in cells
                if cell.budget is None
                or (cell.budget.measure, cell.budget.target) == (measure, target)
            ),
        )
        for measure, target in budgets
    ]
