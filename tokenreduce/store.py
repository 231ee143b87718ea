"""Results of ablations and comparisons in one SQLite file. Reports and tables read only this."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tokenreduce.cells import Budget, Cell, Setup
from tokenreduce.errors import ConfigError
from tokenreduce.records import (
    CalibrationRecord,
    PictureRecord,
    Record,
    SampleRecord,
    TimingRecord,
)
from tokenreduce.results_file import (
    FILE_NAME,
    explained,
    open_to_read,
    open_to_write,
    transaction,
)

_CELL_COLUMNS = 'key, label, "row", summary, config, budget'


class Store:
    """The results file of a folder; what was added is there for good when :meth:`add` returns.

    Several processes may write and read at once, each through a store of its own; on a network disk
    one alone. Threads of a process may share a store. It must not be taken along into a fork.

    Attributes
    ----------
    path
        The file.
    notice
        What the user should know about the disk that it is on; empty if there is nothing.
    """

    def __init__(self, path: Path, db: sqlite3.Connection, notice: str = "") -> None:
        self.path = path
        self.notice = notice
        self._db = db
        self._lock = threading.RLock()

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the results of a folder to add to them; make folder and file if they are missing.

        Raises
        ------
        ConfigError
            If the folder cannot be made or written, its file is damaged, of another program or
            version, or is in use on a network disk.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{folder} cannot be made ({error.strerror}): give another folder."
            ) from error
        return cls(folder / FILE_NAME, *open_to_write(folder / FILE_NAME))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Open the results of a folder to read them, even while they are being written.

        Raises
        ------
        ConfigError
            If there are none, or the file is damaged, of another program or version, or is being
            written on a network disk.
        """
        return cls(folder / FILE_NAME, open_to_read(folder / FILE_NAME))

    def begin(
        self,
        grid: Any,
        cells: Sequence[tuple[str, Cell]],
        questions: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Say which cells the grid has now; cells and records of earlier grids stay in the file.

        Parameters
        ----------
        grid
            The whole configuration, in JSON types.
        cells
            Key and cell in the order of the tables. A key may come again, under another label or
            budget: its records belong to all of them.
        questions
            Ids of the questions that the cells of each setup are asked, by :meth:`Setup.key`.
        """
        asked = [(_bound(setup), json.dumps(list(ids))) for setup, ids in (questions or {}).items()]
        rows = [(position, *_cell_values(*each)) for position, each in enumerate(cells)]
        with self._transaction():
            self._db.execute("DELETE FROM grid")
            self._db.execute("INSERT INTO grid VALUES (?)", (json.dumps(grid),))
            self._db.execute("DELETE FROM question")
            self._db.executemany("INSERT INTO question VALUES (?, ?)", asked)
            self._db.execute("UPDATE cell SET position = NULL")
            self._db.executemany("DELETE FROM cell WHERE key = ?", [(row[1],) for row in rows])
            self._db.executemany("INSERT INTO cell VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def grid(self) -> Any:
        """Return what :meth:`begin` was last given; None before."""
        rows = self._rows("SELECT document FROM grid")
        return json.loads(rows[0][0]) if rows else None

    def questions(self) -> dict[str, list[str]]:
        """Return the ids of the questions of each setup, as :meth:`begin` was last given them."""
        rows = self._rows("SELECT setup, samples FROM question")
        return {setup: json.loads(samples) for setup, samples in rows}

    def cells(self) -> list[tuple[str, Cell]]:
        """Return key and cell of the grid as it is now, in its order."""
        chosen = "WHERE position IS NOT NULL ORDER BY position"
        return list(map(_cell, self._rows(f"SELECT {_CELL_COLUMNS} FROM cell {chosen}")))

    def all_cells(self) -> list[tuple[str, Cell]]:
        """Return key and cell of this grid and, after them, of those before it."""
        order = "ORDER BY position IS NULL, position, rowid"
        return list(map(_cell, self._rows(f"SELECT {_CELL_COLUMNS} FROM cell {order}")))

    def add(self, record: Record) -> bool:
        """Write a record; see :meth:`add_many`.

        Returns
        -------
        bool
            Whether it is in the file now and was not before.
        """
        return self.add_many([record]) == 1

    def add_many(self, records: Iterable[Record]) -> int:
        """Write records, all of them or none.

        The first answer to a question stays, unless it failed and this one did not, or the question
        is another one by its digest; timings and pictures of the old question go then. The first
        timing of a round stays. A picture or calibration replaces the one before it.

        Returns
        -------
        int
            How many are in the file now and were not before.

        Raises
        ------
        ConfigError
            If a cell was never in a grid, or the file cannot be written; nothing is added then.
        """
        with self._transaction():
            return sum(map(self._add, records))

    def finished(self, key: str) -> dict[str, str]:
        """Return id and digest of the questions that a cell has a record of, failed ones too."""
        return dict(self._rows("SELECT sample, digest FROM sample WHERE cell = ?", key))

    def failed(self, key: str) -> dict[str, str]:
        """Return id and error of the questions that failed in a cell."""
        query = "SELECT sample, error FROM sample WHERE cell = ? AND error IS NOT NULL"
        return dict(self._rows(query, key))

    def forget_failed(self, keys: Iterable[str]) -> int:
        """Delete the records of failed questions of some cells; return how many there were."""
        query = "DELETE FROM sample WHERE cell = ? AND error IS NOT NULL"
        with self._transaction():
            return sum(self._db.execute(query, (_bound(key),)).rowcount for key in keys)

    def records(self, key: str) -> list[SampleRecord]:
        """Return what a cell made of the questions so far, in the order of their ids."""
        query = f"SELECT {_columns(SampleRecord)} FROM sample WHERE cell = ? ORDER BY sample"
        return [_sample(row) for row in self._rows(query, key)]

    def timings(self, key: str) -> list[TimingRecord]:
        """Return the timed prefills of a cell, by the id of the question and the round."""
        columns = _columns(TimingRecord)
        query = f"SELECT {columns} FROM timing WHERE cell = ? ORDER BY sample, round"
        return [TimingRecord(*row) for row in self._rows(query, key)]

    def pictures(self, key: str) -> list[PictureRecord]:
        """Return the pictures of a cell, by the id of the question and the kind."""
        columns = _columns(PictureRecord)
        query = f"SELECT {columns} FROM picture WHERE cell = ? ORDER BY sample, kind"
        return [PictureRecord(*row) for row in self._rows(query, key)]

    def calibrations(self) -> dict[str, str]:
        """Return cell and document of every calibration."""
        return dict(self._rows("SELECT cell, document FROM calibration ORDER BY cell"))

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read one state of the file inside, whatever others write meanwhile. Nothing is added."""
        with self._lock, explained(self.path), transaction(self._db, "DEFERRED"):
            yield

    def close(self) -> None:
        """Close the file; what was added is in it."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        # IMMEDIATE waits for its turn at once; a transaction that reads first could not wait later.
        with self._lock, explained(self.path), transaction(self._db, "IMMEDIATE"):
            yield

    def _rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        with self._lock, explained(self.path):
            rows = self._db.execute(query, [_bound(value) for value in values]).fetchall()
        return [tuple(map(_unbound, row)) for row in rows]

    def _add(self, record: Record) -> bool:
        if not isinstance(record, CalibrationRecord):
            self._check_cell(record.cell)
        match record:
            case SampleRecord():
                return self._add_sample(record)
            case TimingRecord():
                return self._insert("IGNORE", "timing", record)
            case PictureRecord():
                return self._insert("REPLACE", "picture", record)
            case CalibrationRecord():
                return self._insert("REPLACE", "calibration", record)

    def _check_cell(self, key: str) -> None:
        if not self._rows("SELECT 1 FROM cell WHERE key = ?", key):
            raise ConfigError(f"{self.path} has no cell {key!r}: begin a grid that has it.")

    def _add_sample(self, record: SampleRecord) -> bool:
        chosen, place = "WHERE cell = ? AND sample = ?", (record.cell, record.sample)
        for digest, error in self._rows(f"SELECT digest, error FROM sample {chosen}", *place):
            if digest == record.digest and (error is None or record.error is not None):
                return False
            if digest != record.digest:
                for table in ("timing", "picture"):
                    self._db.execute(f"DELETE FROM {table} {chosen}", list(map(_bound, place)))
        return self._insert("REPLACE", "sample", record)

    def _insert(self, otherwise: str, table: str, record: Record) -> bool:
        values = [_bound(getattr(record, each.name)) for each in fields(record)]
        names, marks = _columns(type(record)), ", ".join("?" * len(values))
        same = " AND ".join(f"{each.name} IS ?" for each in fields(record))
        if self._db.execute(f"SELECT 1 FROM {table} WHERE {same}", values).fetchone():
            return False
        statement = f"INSERT OR {otherwise} INTO {table} ({names}) VALUES ({marks})"
        return self._db.execute(statement, values).rowcount == 1


def _columns(record: type[Record]) -> str:
    """Return the columns of a record's table, which are its fields."""
    return ", ".join(each.name for each in fields(record))


def _bound(value: Any) -> Any:
    """Return a value as SQLite holds it.

    Half a surrogate pair is no UTF-8, and SQLite's text is: such a string becomes bytes, so that
    nothing of it is lost and other programs can still read the rest.
    """
    if isinstance(value, tuple):
        return json.dumps(value)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode(errors="surrogatepass")
    return value


def _unbound(value: Any) -> Any:
    return value.decode(errors="surrogatepass") if isinstance(value, bytes) else value


def _sample(row: Sequence[Any]) -> SampleRecord:
    values = dict(zip((each.name for each in fields(SampleRecord)), row, strict=True))
    values["tokens_per_layer"] = tuple(json.loads(values["tokens_per_layer"]))
    values["correct"] = None if values["correct"] is None else bool(values["correct"])
    return SampleRecord(**values)


def _cell_values(key: str, cell: Cell) -> tuple[Any, ...]:
    config = json.dumps(cell.config())
    budget = json.dumps(asdict(cell.budget)) if cell.budget else None
    words = (key, cell.label, cell.row, cell.reducer, cell.seed, cell.summary, config, budget)
    return tuple(map(_bound, words))


def _cell(values: Sequence[Any]) -> tuple[str, Cell]:
    key, label, row, summary, config, budget = values
    known = json.loads(config)
    known["setup"] = Setup(**known["setup"])
    known["reducers"] = tuple(known["reducers"])
    solved = Budget(**json.loads(budget)) if budget else None
    return key, Cell(label=label, row=row, summary=summary, budget=solved, **known)
