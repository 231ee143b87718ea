from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tokenreduce.errors import ConfigError
from tokenreduce.store import Cell, SampleRecord, Store

CELLS = [
    Cell("zebra", "keep_all", {}),
    Cell("both", "vas+fastv", [{"use": "vas", "ratio": 0.3}, {"use": "fastv"}], "vas(ratio=0.3)"),
]
GOOD = SampleRecord(
    label="zebra",
    seed=3,
    sample="clip-1",
    category="color",
    answer="red",
    prediction="blue",
    correct=False,
    img_memory=0.5,
    flops_ratio=0.625,
    tokens_per_layer=(64, 64, 32),
    bad_packets=2,
    inexact=1,
    ttft_ms=12.5,
    ttft_full_ms=25.0,
    peak_memory_bytes=1 << 40,
)
BAD = SampleRecord("both", 0, "clip-1", "color", "red", error="VideoError: no 'quotes' lost")


def begin(path: Path) -> Store:
    return Store.begin(path, model="m", benchmark="b", config={"frames": None}, cells=CELLS)


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    with begin(path) as store:
        store.add([GOOD, BAD])
    with Store(path) as again:
        assert (again.model, again.benchmark) == ("m", "b")
        assert again.cells() == CELLS
        assert again.records("zebra") == [GOOD]
        assert again.records("both") == [BAD]
        assert again.records("nobody") == []


def test_rows_are_there_for_others_as_soon_as_they_are_added(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    with begin(path) as store:
        store.add([GOOD])
        with Store(path) as other:
            assert other.records("zebra") == [GOOD]


def test_all_or_none(tmp_path: Path) -> None:
    with begin(tmp_path / "results.sqlite") as store:
        store.add([GOOD])
        with pytest.raises(sqlite3.IntegrityError):
            store.add([BAD, GOOD])  # the second one is there already
        assert store.records("both") == []


def test_an_older_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    path.write_text("precious")
    with pytest.raises(ConfigError, match=r"results\.sqlite exists already: give another path"):
        begin(path)
    assert path.read_text() == "precious"


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.results\.sqlite cannot hold the results"):
        begin(tmp_path / "none" / "results.sqlite")
