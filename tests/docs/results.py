"""A small folder of results, for the pages that speak of one."""

from __future__ import annotations

from pathlib import Path

from tokenreduce.cells import Cell, Setup
from tokenreduce.records import SampleRecord, TimingRecord
from tokenreduce.store import Store


def write_results(folder: Path) -> None:
    """Write a grid of two cells, with one question each."""
    setup = Setup("embedded", {"use": "embedded"})
    vas = Cell(setup, "vas", "vas", ({"use": "vas", "ratio": 0.3},))
    cells = [("0", Cell(setup, "keep_all", "keep_all", ())), ("1", vas)]
    with Store.open(folder) as store:
        store.begin({"reducers": {"vas": {"ratio": 0.3}}}, cells)
        for key, _ in cells:
            answer = SampleRecord(
                key, "clip", "d", "color", "red", "red", True, None, 8, (8, 4), 1, 2, 3, 4
            )
            store.add_many([answer, TimingRecord(key, "clip", 0, 0.1, 0.2)])
