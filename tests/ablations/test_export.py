"""Exports hold what the store holds, in every form, and equal bytes for equal results."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import csv as arrow_csv
from pyarrow import parquet
from typer.testing import CliRunner

from tokenreduce.cells import Budget, Cell, Setup
from tokenreduce.cli import app
from tokenreduce.errors import ConfigError
from tokenreduce.export import export
from tokenreduce.records import SampleRecord, TimingRecord
from tokenreduce.store import Store

FORMS = ("csv", "json", "parquet")
SETUP = Setup("m", {"use": "b"}, {"a": {"b": 1}, "a.b": 2}, frames=8)
BASE = Cell(SETUP, "keep_all", "keep_all", ())
VAS = Cell(SETUP, "vas ratio=1", "vas", ({"use": "vas", "ratio": 1, "layer": 2},), seed=3)
BOTH = Cell(
    SETUP,
    "both",
    "both",
    ({"use": "evs", "ratio": 0.25, "layer": "last"}, {"use": "vas", "layers": [4, 8]}),
    summary='say "hi", you',
    budget=Budget("flops", 0.5, reached=0.498),
)
CELLS = [("kb", BASE), ("k2", BOTH), ("k1", VAS)]
SAMPLES = [
    SampleRecord("k1", "b", "d", "c", "", 'a,\r\n"b"\r\n', True, None, 9, (9, 4), 5, 7, 1, 2, 3, 4),
    SampleRecord("k1", "a", "d", "c", "x", "", False, video="v", frames=8),
    SampleRecord("k2", "a", "d", "c", "x", error="VideoError: naïve\r 🐍"),
    SampleRecord("kb", "a", "d", "c", "x", "\ud800 and \\ud800", True),
]
TIMINGS = [
    TimingRecord("k1", "a", 1, 0.1, 0.30000000000000004),
    TimingRecord("k1", "a", 0, 1e-7, 123456789.125, 1 << 40),
    TimingRecord("kb", "a", 0, 0.1, 0.1),
]


def fill(store: Store, records: Any = (*SAMPLES, *TIMINGS)) -> None:
    store.begin({}, CELLS)
    store.add_many(records)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store.open(tmp_path / "out") as opened:
        fill(opened)
        yield opened


def read_csv(path: Path) -> list[dict[str, Any]]:
    """Read with Arrow, which tells a missing value from an empty text, as strings."""
    with path.open(encoding="utf-8", newline="") as file:
        names = next(csv.reader(file))
    table = arrow_csv.read_csv(
        path,
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pyarrow.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    return table.to_pylist()


def read_json(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))


def read_parquet(path: Path) -> list[dict[str, Any]]:
    return parquet.read_table(path).to_pylist()


READERS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    "csv": read_csv,
    "json": read_json,
    "parquet": read_parquet,
}


def as_text(value: Any) -> str | None:
    """Return a value as a CSV file has it."""
    return value if value is None or isinstance(value, str) else json.dumps(value)


def exported(store: Store, folder: Path, form: str) -> dict[str, list[dict[str, Any]]]:
    return {path.stem: READERS[form](path) for path in export(store, folder, form)}


def test_settings_are_columns(store: Store, tmp_path: Path) -> None:
    cells = exported(store, tmp_path, "json")["cells"]
    assert [cell["cell"] for cell in cells] == ["kb", "k2", "k1"]
    assert cells[1] == {
        "cell": "k2",
        "label": "both",
        "row": "both",
        "reducer": "evs+vas",
        "setup.model": "m",
        "setup.benchmark.use": "b",
        "setup.model_options.a.b": 1,
        'setup.model_options."a.b"': 2,
        "setup.dtype": "float32",
        "setup.device": "auto",
        "setup.positions": "keep",
        "setup.max_new_tokens": 16,
        "setup.frames": 8,
        "setup.turn": 1,
        "reducers.0.use": "evs",
        "reducers.0.ratio": 0.25,
        "reducers.0.layer": '"last"',  # a number elsewhere, so JSON everywhere
        "reducers.1.use": "vas",
        "reducers.1.layers.0": 4,
        "reducers.1.layers.1": 8,
        "seed": 0,
        "frames_share": 1.0,
        "size_share": 1.0,
        "budget.measure": "flops",
        "budget.target": 0.5,
        "budget.tolerance": 0.005,
        "budget.reached": 0.498,
        "budget.note": "",
        "summary": 'say "hi", you',
    }
    assert (cells[2]["reducers.0.ratio"], cells[2]["reducers.0.layer"]) == (1.0, "2")
    assert cells[0]["reducers.0.use"] is None
    assert all(list(cell) == list(cells[0]) for cell in cells)


def test_rows_are_in_order_and_whole(store: Store, tmp_path: Path) -> None:
    samples = exported(store, tmp_path, "json")["samples"]
    assert [(row["label"], row["sample"]) for row in samples] == [
        ("keep_all", "a"),
        ("both", "a"),
        ("vas ratio=1", "a"),
        ("vas ratio=1", "b"),
    ]
    last = {
        "sample": "b",
        "digest": "d",
        "category": "c",
        "answer": "",
        "prediction": 'a,\r\n"b"\r\n',
        "correct": True,
        "error": None,
        "visual_tokens": 9,
        "tokens_per_layer": [9, 4],
        "flops": 5,
        "flops_full": 7,
        "kv_bytes": 1,
        "kv_bytes_full": 2,
        "bad_packets": 3,
        "inexact": 4,
        "video": "",
        "frames": None,
    }
    assert {name: samples[3][name] for name in list(samples[3])[-17:]} == last
    assert samples[3]["reducers.0.use"] == "vas"
    assert samples[1]["error"] == "VideoError: naïve\r 🐍"
    # Half a surrogate pair cannot be UTF-8; in every form it is written out.
    assert samples[0]["prediction"] == "\\ud800 and \\ud800"


def test_times_are_apart(store: Store, tmp_path: Path) -> None:
    found = exported(store, tmp_path, "json")
    assert [list(row.values())[-5:] for row in found["timings"]] == [
        ["a", 0, 0.1, 0.1, None],
        ["a", 0, 1e-7, 123456789.125, 1 << 40],
        ["a", 1, 0.1, 0.30000000000000004, None],
    ]
    times = {"ttft", "ttft_full", "peak_bytes", "round"}
    assert list(found["timings"][0])[-4:] == ["round", "ttft", "ttft_full", "peak_bytes"]
    assert not times & (set(found["samples"][0]) | set(found["cells"][0]))


def test_all_forms_read_back_equal(store: Store, tmp_path: Path) -> None:
    found = {form: exported(store, tmp_path, form) for form in FORMS}
    assert found["parquet"] == found["json"]
    text = {
        name: [{key: as_text(value) for key, value in row.items()} for row in rows]
        for name, rows in found["json"].items()
    }
    assert found["csv"] == text


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=()), max_size=8), min_size=3, max_size=3
    ),
    number=st.integers(-(2**63), 2**63 - 1),
    seconds=st.floats(allow_nan=False, allow_infinity=False),
    layers=st.lists(st.integers(0, 2**63 - 1), max_size=4),
)
def test_any_values_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[str],
    number: int,
    seconds: float,
    layers: list[int],
) -> None:
    folder = tmp_path_factory.mktemp("any")
    setup = replace(SETUP, model_options={texts[0]: number, "x": {texts[1]: seconds, "y": [None]}})
    with Store.open(folder) as store:
        store.begin({}, [("k", replace(BASE, setup=setup, label=texts[2]))])
        store.add(SampleRecord("k", *texts, texts[0], texts[1], tokens_per_layer=tuple(layers)))
        store.add(TimingRecord("k", texts[0], 0, seconds, seconds, number))
        found = {form: exported(store, folder / "tables", form) for form in ("json", "parquet")}
        names = [path.name for path in export(store, folder / "tables", "csv")]
    assert found["parquet"] == found["json"]
    (timing,) = found["json"]["timings"]
    assert (timing["ttft"], timing["peak_bytes"]) == (seconds, number)
    assert found["json"]["samples"][0]["tokens_per_layer"] == layers
    for name in names:
        with (folder / "tables" / name).open(encoding="utf-8", newline="") as file:
            head, *rows = csv.reader(file, strict=True)
        (row,) = found["json"][Path(name).stem]
        assert (head, rows) == (list(row), [[as_text(each) or "" for each in row.values()]])


@pytest.mark.parametrize("form", FORMS)
def test_equal_results_are_equal_files(store: Store, tmp_path: Path, form: str) -> None:
    with Store.open(tmp_path / "other") as other:
        # Another grid before, another order, and a failure that was made good.
        other.begin({}, [("old", replace(BASE, seed=7)), CELLS[1]])
        other.add(replace(SAMPLES[0], cell="old"))
        other.add(replace(SAMPLES[2], error="lost a worker"))
        other.forget_failed(["k2"])
        fill(other, [*reversed(TIMINGS), *reversed(SAMPLES)])
        second = [path.read_bytes() for path in export(other, tmp_path / "2", form)]
    first = [path.read_bytes() for path in export(store, tmp_path / "1", form)]
    assert first == second
    with Store.open(tmp_path / "changed") as changed:
        fill(changed, [replace(SAMPLES[0], prediction="another"), *SAMPLES[1:], *TIMINGS])
        assert first != [path.read_bytes() for path in export(changed, tmp_path / "3", form)]


def test_questions_that_are_not_asked_any_more_are_left_out(store: Store, tmp_path: Path) -> None:
    other = replace(BASE, setup=replace(SETUP, frames=4))
    store.begin({}, [*CELLS, ("other", other)], {SETUP.key(): ["b"], other.setup.key(): ["a"]})
    store.add(SampleRecord("other", "a", "d", "c", "x", "y", True))
    found = exported(store, tmp_path, "json")
    assert [(row["cell"], row["sample"]) for row in found["samples"]] == [
        ("k1", "b"),
        ("other", "a"),
    ]
    assert found["timings"] == []


def test_one_key_in_two_tables_gives_its_rows_twice(store: Store, tmp_path: Path) -> None:
    cells = [("kb", replace(BASE, budget=Budget("flops", target))) for target in (0.25, 0.5)]
    store.begin({}, cells)
    samples = exported(store, tmp_path, "json")["samples"]
    assert [(row["budget.target"], row["sample"]) for row in samples] == [(0.25, "a"), (0.5, "a")]


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_store(tmp_path: Path, form: str) -> None:
    with Store.open(tmp_path) as store:
        paths = export(store, tmp_path / "tables", form)
    assert [path.name for path in paths] == [f"{n}.{form}" for n in ("cells", "samples", "timings")]
    if form != "csv":
        assert [READERS[form](path) for path in paths] == [[], [], []]
    else:
        assert paths[0].read_text() == '"cell","label","row","reducer","summary"\n'


def test_column_types_in_parquet(store: Store, tmp_path: Path) -> None:
    schema = parquet.read_schema(export(store, tmp_path, "parquet")[1])
    known = {name: str(schema.field(name).type) for name in schema.names}
    assert known["correct"] == "bool"
    assert known["flops"] == known["seed"] == known["reducers.1.layers.0"] == "int64"
    assert known["reducers.0.ratio"] == known["budget.target"] == "double"  # 1 and 0.25
    assert known["reducers.0.layer"] == known["prediction"] == "string"
    assert schema.field("tokens_per_layer").type == pyarrow.list_(pyarrow.int64())


def test_numbers_that_fit_no_column_are_text(store: Store, tmp_path: Path) -> None:
    options = {"fits": 2**63 - 1, "large": 2**63}
    store.begin({}, [("kb", replace(BASE, setup=replace(SETUP, model_options=options)))])
    (cell,) = exported(store, tmp_path, "parquet")["cells"]
    assert cell["setup.model_options.fits"] == 2**63 - 1
    assert cell["setup.model_options.large"] == "9223372036854775808"


def test_all_tables_are_of_one_moment(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.read(store.path.parent) as reader:
        cells = reader.cells

        def cells_then_more() -> Any:
            found = cells()
            store.add(replace(SAMPLES[0], sample="late"))
            return found

        monkeypatch.setattr(reader, "cells", cells_then_more)
        assert len(exported(reader, tmp_path, "json")["samples"]) == 4
        assert len(exported(reader, tmp_path, "json")["samples"]) == 5


def test_no_such_form(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'parket' is no format of an export: did you mean 'parq"):
        export(store, tmp_path / "tables", "parket")
    assert not (tmp_path / "tables").exists()


def test_without_pyarrow(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'tokenreduce\[export\]', or choose csv"):
        export(store, tmp_path, "parquet")
    export(store, tmp_path, "csv")


def test_the_folder_is_a_file(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file cannot be written \(File exists\): give another"):
        export(store, tmp_path / "file", "csv")


@pytest.mark.parametrize("form", FORMS)
def test_the_command(store: Store, tmp_path: Path, form: str) -> None:
    folder = store.path.parent
    for options, out in (([], folder / "export"), (["--out", f"{tmp_path}/t"], tmp_path / "t")):
        done = CliRunner().invoke(app, ["export", str(folder), "--format", form, *options])
        assert done.exit_code == 0, done.output
        files = [out / f"{name}.{form}" for name in ("cells", "samples", "timings")]
        assert done.stdout.splitlines() == list(map(str, files))
        assert sorted(out.iterdir()) == files
        assert READERS[form](files[0])[1]["cell"] == "k2"


def test_the_command_without_results(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(tmp_path)])
    assert done.exit_code == 2
    assert "results.sqlite is missing: give a folder" in done.stderr
