"""The results of a grid: its tables, comparisons between rows, and a frame for notebooks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenreduce.cells import Cell
from tokenreduce.errors import ConfigError
from tokenreduce.labels import value_text
from tokenreduce.report import Comparison, Report
from tokenreduce.results.answers import Answers
from tokenreduce.results.comparison import adjusted, compared
from tokenreduce.results.grouping import TableCells, choose, find, group, varied
from tokenreduce.results.rows import build_rows
from tokenreduce.store import Store

if TYPE_CHECKING:
    import pandas

ERRORS = 5
"""Different reasons of failure that a table shows."""

_BUDGET = ("measure", "target", "tolerance")  # of a table; the rest differs between its rows


class Results:
    """What a grid came to, as far as it has run; what :func:`tokenreduce.ablate` returns.

    Parameters
    ----------
    store
        The results file. It is read here, once: what is added later is not seen.
    notes
        What there is to say about the run that made them.
    """

    def __init__(self, store: Store, notes: Sequence[str] = ()) -> None:
        self.notes = tuple(notes)
        with store.snapshot():  # others may be writing
            self._cells = group(store.cells())
            questions = store.questions()
            self._answers = [
                [_read(store, cells, questions) for cells in table.rows.values()]
                for table in self._cells
            ]

    @classmethod
    def read(cls, folder: Path | str) -> Results:
        """Read the results of a folder, finished or not.

        Raises
        ------
        ConfigError
            If there are none, or the file cannot be read.
        """
        with Store.read(Path(folder)) as store:
            return cls(store)

    @cached_property
    def tables(self) -> tuple[Report, ...]:
        """One report for each setup and budget target, in the order of the grid."""
        details = varied(self._cells)
        return tuple(
            _report(cells, rows, details)
            for cells, rows in zip(self._cells, self._answers, strict=True)
        )

    @property
    def failed(self) -> int:
        """Samples that failed, over all tables."""
        return sum(report.failed for report in self.tables)

    @property
    def finished(self) -> bool:
        """Whether every question was asked in every row."""
        return all(report.finished for report in self.tables)

    def table(self, **wanted: Any) -> Report:
        """Return the one table with these settings: its rows, which rich prints as tables.

        Parameters
        ----------
        **wanted
            Settings that the tables differ in, such as ``frames=8``; ``benchmark`` may be a name,
            and ``target`` is that of the budget. Nothing, if there is one table.

        Raises
        ------
        ConfigError
            If not exactly one table has these settings.
        """
        return self.tables[choose(self._cells, wanted)]

    def compare(self, first: str, second: str, **wanted: Any) -> Comparison:
        """Compare two rows of a table; the difference is that of the first minus the second.

        Parameters
        ----------
        first, second
            Labels, or names of rows of the grid that have one label.
        **wanted
            Which table, as in :meth:`table`.

        Raises
        ------
        ConfigError
            If not exactly one table or row is meant.
        """
        cells, rows = self._chosen(wanted)
        return compared(rows[find(cells, first)], rows[find(cells, second)])

    def comparisons(self, against: str | None = None, **wanted: Any) -> list[Comparison]:
        """Compare the rows of a table, all p-values corrected together.

        Parameters
        ----------
        against
            The row that all others are compared with; None: every row with every later one.
        **wanted
            Which table, as in :meth:`table`.

        Raises
        ------
        ConfigError
            If not exactly one table or row is meant.
        """
        cells, rows = self._chosen(wanted)
        if against is None:
            return adjusted([compared(first, second) for first, second in combinations(rows, 2)])
        base = rows[find(cells, against)]
        return adjusted([compared(each, base) for each in rows if each is not base])

    def document(self) -> dict[str, Any]:
        """Return all tables in JSON types."""
        return {"tables": [report.document() for report in self.tables]}

    def to_pandas(self) -> pandas.DataFrame:
        """Return a line for each row of each table: the table's settings and the row's numbers.

        Nested ones are columns with a dot, as ``benchmark.use`` or ``comparison.difference``, and
        intervals are two columns, as ``accuracy_interval.low``.

        Raises
        ------
        ConfigError
            If pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ConfigError(
                "to_pandas() needs pandas: pip install 'tokenreduce[export]'."
            ) from error
        lines = [
            cells.settings() | _two_columns(asdict(row))
            for cells, report in zip(self._cells, self.tables, strict=True)
            for row in report.rows
        ]
        return pandas.json_normalize(lines)

    def _chosen(self, wanted: Mapping[str, Any]) -> tuple[TableCells, list[Answers]]:
        index = choose(self._cells, wanted)
        return self._cells[index], self._answers[index]


def _read(
    store: Store, cells: Sequence[tuple[str, Cell]], questions: Mapping[str, Collection[str]]
) -> Answers:
    """Read the records of a row; those of questions that the grid no longer asks are left out."""
    asked = questions.get(cells[0][1].setup.key())
    known = None if asked is None else set(asked)
    return Answers(
        cells=tuple(cell for _, cell in cells),
        records=tuple(
            tuple(r for r in store.records(key) if known is None or r.sample in known)
            for key, _ in cells
        ),
        timings=tuple(
            timing
            for key in dict.fromkeys(key for key, _ in cells)
            for timing in store.timings(key)
            if known is None or timing.sample in known
        ),
        planned=None if known is None else len(known),
    )


def _report(
    cells: TableCells, rows: Sequence[Answers], details: Mapping[str, Sequence[str]]
) -> Report:
    settings, budget = cells.settings(), cells.budget
    reasons = dict.fromkeys(
        f"{row.label}: {record.error}"
        for row in rows
        for group in row.records
        for record in group
        if record.error is not None
    )
    shown = [name for name in details if name not in ("model", "measure", "target")]
    return Report(
        model=Path(cells.setup.model).name,
        benchmark=str(cells.setup.benchmark.get("use", "")),
        rows=build_rows(rows),
        errors=tuple(reasons)[:ERRORS],
        setup=cells.setup.config(),
        budget={name: getattr(budget, name) for name in _BUDGET} if budget else None,
        details=", ".join(f"{name}={value_text(settings[name])}" for name in shown),
    )


def _two_columns(line: dict[str, Any]) -> dict[str, Any]:
    """Give both ends of every interval a name."""
    for part in (line, line["comparison"] or {}):
        for name in [name for name in part if name.endswith("interval")]:
            low, high = part[name] or (None, None)
            part[name] = {"low": low, "high": high}
    return line
