"""Results of a comparison in one SQLite file: a row per sample and cell. Reports read only this."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tokenreduce.errors import ConfigError

_SCHEMA = """
CREATE TABLE run (model TEXT NOT NULL, benchmark TEXT NOT NULL, config TEXT NOT NULL);
CREATE TABLE cell (
    label TEXT PRIMARY KEY, reducer TEXT NOT NULL, settings TEXT NOT NULL, summary TEXT NOT NULL
);
CREATE TABLE sample (
    label TEXT NOT NULL REFERENCES cell (label),
    seed INTEGER NOT NULL,
    sample TEXT NOT NULL,
    category TEXT NOT NULL,
    answer TEXT NOT NULL,
    prediction TEXT,
    correct INTEGER,
    error TEXT,
    img_memory REAL,
    flops_ratio REAL,
    tokens_per_layer TEXT,
    bad_packets INTEGER NOT NULL,
    inexact INTEGER NOT NULL,
    ttft_ms REAL,
    ttft_full_ms REAL,
    peak_memory_bytes INTEGER,
    PRIMARY KEY (label, seed, sample)
);
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of a comparison: reducers with their settings, under a label.

    Attributes
    ----------
    label
        Unique in the comparison.
    reducer
        Name of the reducer, or the names joined by ``+`` in the order they act.
    settings
        All settings of the reducer; of composed ones a list, in the same order.
    summary
        The settings that were written out, for people.
    """

    label: str
    reducer: str
    settings: Any
    summary: str = ""


@dataclass(frozen=True, slots=True)
class SampleRecord:
    """What one cell made of one sample.

    Attributes
    ----------
    label
        The cell.
    seed
        Of the reducers' random choices.
    sample, category, answer
        From the benchmark.
    prediction, correct
        The model's words and whether they count as right; None where the sample failed.
    error
        Why the sample failed; None where it did not.
    img_memory, flops_ratio
        Shares of the unreduced prefill.
    tokens_per_layer
        Visual tokens in the cache of each decoder layer.
    bad_packets, inexact
        How sound the video was; see :class:`tokenreduce.video.Video`.
    ttft_ms, ttft_full_ms
        Median time to first token in milliseconds, and that of the baseline in the same rounds;
        None where this sample was not timed.
    peak_memory_bytes
        Peak memory of its prefill; None where it was not measured.
    """

    label: str
    seed: int
    sample: str
    category: str
    answer: str
    prediction: str | None = None
    correct: bool | None = None
    error: str | None = None
    img_memory: float | None = None
    flops_ratio: float | None = None
    tokens_per_layer: tuple[int, ...] = ()
    bad_packets: int = 0
    inexact: int = 0
    ttft_ms: float | None = None
    ttft_full_ms: float | None = None
    peak_memory_bytes: int | None = None


class Store:
    """One comparison's results, on disk as soon as they are added.

    Parameters
    ----------
    path
        A file that does not exist yet to make one with :meth:`begin`, or a finished one to read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = sqlite3.connect(path)
        self._db.row_factory = sqlite3.Row

    @classmethod
    def begin(
        cls, path: Path, *, model: str, benchmark: str, config: Any, cells: Sequence[Cell]
    ) -> Self:
        """Make a store for a comparison that is about to run.

        Parameters
        ----------
        path
            Where; its folder must exist.
        model, benchmark
            Names, for the report.
        config
            The whole configuration, in JSON types.
        cells
            The comparison's rows, in their order; the first one is the baseline.

        Raises
        ------
        ConfigError
            If there is a file already, or none can be made.
        """
        if path.exists():
            raise ConfigError(f"{path} exists already: give another path for the results.")
        try:
            store = cls(path)
            with store._db:
                store._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;")
                store._db.executescript(_SCHEMA)
                run = (model, benchmark, json.dumps(config))
                store._db.execute("INSERT INTO run VALUES (?, ?, ?)", run)
                rows = [(c.label, c.reducer, json.dumps(c.settings), c.summary) for c in cells]
                store._db.executemany("INSERT INTO cell VALUES (?, ?, ?, ?)", rows)
        except sqlite3.OperationalError as error:
            raise ConfigError(f"{path} cannot hold the results: {error}.") from error
        return store

    def add(self, records: Sequence[SampleRecord]) -> None:
        """Write records, all of them or none."""
        rows = [
            {name: getattr(record, name) for name in SampleRecord.__slots__}
            | {"tokens_per_layer": json.dumps(record.tokens_per_layer)}
            for record in records
        ]
        names = SampleRecord.__slots__
        columns, values = ", ".join(names), ", ".join(f":{name}" for name in names)
        with self._db:
            self._db.executemany(f"INSERT INTO sample ({columns}) VALUES ({values})", rows)

    @property
    def model(self) -> str:
        """Name of the model."""
        return str(self._db.execute("SELECT model FROM run").fetchone()[0])

    @property
    def benchmark(self) -> str:
        """Name of the benchmark."""
        return str(self._db.execute("SELECT benchmark FROM run").fetchone()[0])

    def cells(self) -> list[Cell]:
        """Return the comparison's rows in their order."""
        rows = self._db.execute("SELECT * FROM cell ORDER BY rowid")
        return [
            Cell(row["label"], row["reducer"], json.loads(row["settings"]), row["summary"])
            for row in rows
        ]

    def records(self, label: str) -> list[SampleRecord]:
        """Return what the cell ``label`` made of the samples so far, in the order they ran."""
        rows = self._db.execute("SELECT * FROM sample WHERE label = ? ORDER BY rowid", (label,))
        return [_record(row) for row in rows]

    def close(self) -> None:
        """Close the file; what was added is in it."""
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


def _record(row: sqlite3.Row) -> SampleRecord:
    values = dict(row)
    values["tokens_per_layer"] = tuple(json.loads(values["tokens_per_layer"]))
    values["correct"] = None if values["correct"] is None else bool(values["correct"])
    return SampleRecord(**values)
