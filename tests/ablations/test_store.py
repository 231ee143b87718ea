"""The results file: what goes in comes out, whoever else writes and however a writer ends."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreduce import results_file
from tokenreduce.cells import Budget, Cell, Setup
from tokenreduce.errors import ConfigError
from tokenreduce.records import (
    CalibrationRecord,
    PictureRecord,
    Record,
    SampleRecord,
    TimingRecord,
)
from tokenreduce.store import Store

ROOT = Path(__file__).parent.parent.parent
FILE = "results.sqlite"
DISKS = ("ext4", "nfs4")

SETUP = Setup(
    model="m",
    benchmark={"use": "b", "limit": None},
    model_options={"layers": [1, 2.5], "é\ud800": {"x": True}},
    dtype="bfloat16",
    device="cpu",
    positions="mean",
    max_new_tokens=3,
    frames=8,
    turn=2,
)
CELL = Cell(
    setup=SETUP,
    label="vas ratio=0.3",
    row="vas",
    reducers=({"use": "vas", "ratio": 0.3}, {"use": "fastv", "layer": 1}),
    seed=4,
    frames_share=0.5,
    size_share=0.25,
    summary="ratio=0.3",
    budget=Budget("kv_bytes", 0.5, 0.25, 0.75, "it cannot"),
)
PLAIN = Cell(Setup("m", {"use": "b"}), "keep_all", "keep_all", ())

GOOD = SampleRecord(
    cell="k",
    sample="clip-1",
    digest="d1",
    category="color",
    answer="red",
    prediction="blue",
    correct=False,
    error=None,
    visual_tokens=64,
    tokens_per_layer=(64, 64, 32),
    flops=(1 << 62) + 1,
    flops_full=(1 << 63) - 1,
    kv_bytes=5,
    kv_bytes_full=6,
    bad_packets=2,
    inexact=1,
    video="clip",
    frames=8,
)
BAD = SampleRecord("k", "clip-1", "d1", "color", "red", error="VideoError: no 'quotes' lost")
TIMING = TimingRecord("k", "clip-1", 3, 0.1, 0.30000000000000004, 1 << 40)
PICTURE = PictureRecord("k", "clip-1", "overlay", '{"frames": []}')
CALIBRATION = CalibrationRecord("unsolved", '{"ratio": 0.3}')


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "out") as opened:
        opened.begin({"reducers": {}}, [("k", CELL), ("base", PLAIN)])
        yield opened


def integrity(folder: Path) -> str:
    db = sqlite3.connect(folder / FILE)
    try:
        return str(db.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        db.close()


# What goes in comes out


@pytest.mark.parametrize("value", [SETUP, CELL, GOOD, TIMING, PICTURE, CALIBRATION])
def test_no_field_is_left_out_of_these_tests(value: Any) -> None:
    for each in fields(value):
        usual = each.default_factory() if each.default_factory is not MISSING else each.default
        assert getattr(value, each.name) != usual or each.name == "error", each.name


def test_records_come_back(store: Store) -> None:
    other = replace(BAD, sample="clip-0")
    for record in (GOOD, other, TIMING, PICTURE, CALIBRATION):
        assert store.add(record)
    with Store.read(store.path.parent) as again:
        assert again.records("k") == [other, GOOD]
        assert again.timings("k") == [TIMING]
        assert again.pictures("k") == [PICTURE]
        assert again.calibrations() == {"unsolved": '{"ratio": 0.3}'}
        assert again.finished("k") == {"clip-0": "d1", "clip-1": "d1"}
        assert again.failed("k") == {"clip-0": "VideoError: no 'quotes' lost"}
        assert isinstance(again.records("k")[1].correct, bool)
        assert again.records("base") == again.timings("base") == again.pictures("base") == []


def test_timings_and_pictures_are_in_order(store: Store) -> None:
    places = [("b", 1), ("a", 10), ("b", 0), ("a", 2)]
    store.add_many([TimingRecord("k", sample, number, 1.0, 2.0) for sample, number in places])
    store.add_many([PictureRecord("k", sample, f"p{number}", "{}") for sample, number in places])
    in_order = [("a", 2), ("a", 10), ("b", 0), ("b", 1)]
    assert [(each.sample, each.round) for each in store.timings("k")] == in_order
    kinds = [(each.sample, each.kind) for each in store.pictures("k")]
    assert kinds == [("a", "p10"), ("a", "p2"), ("b", "p0"), ("b", "p1")]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_text_comes_back(data: st.DataObject) -> None:
    # NUL, controls, and halves of surrogate pairs too.
    text = st.text(st.characters(exclude_categories=()), max_size=12)
    cell, sample, one, two, three = (data.draw(text) for _ in range(5))
    labelled = replace(CELL, label=one, row=two, summary=three)
    answered = replace(GOOD, cell=cell, sample=sample, digest=one, answer=two, prediction=three)
    failed = replace(BAD, cell=cell, sample=sample + "x", error=one, category=two, video=three)
    timing = replace(TIMING, cell=cell, sample=sample)
    picture = PictureRecord(cell, sample, one, two)
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder)) as store:
        store.begin([one, {two: three}], [(cell, labelled)], {one: [two, three]})
        store.add_many([answered, failed, timing, picture, CalibrationRecord(cell, one)])
        assert store.grid() == [one, {two: three}]
        assert store.cells() == [(cell, labelled)]
        assert store.questions() == {one: [two, three]}
        assert store.records(cell) == [answered, failed]
        assert store.timings(cell) == [timing]
        assert store.pictures(cell) == [picture]
        assert store.calibrations() == {cell: one}
        assert store.finished(cell) == {sample: one, sample + "x": "d1"}
        assert store.failed(cell) == {sample + "x": one}
        assert store.forget_failed([cell]) == 1


def test_texts_that_look_alike_are_not_one(store: Store) -> None:
    ids = ["a", "a\0", "a\0b", "a\ud800", "a\\ud800", "a\ufffd", "\ud83d\ude00", "\U0001f600", ""]
    store.add_many(replace(GOOD, sample=each) for each in ids)
    assert sorted(store.finished("k")) == sorted(ids)


def test_other_programs_can_read_whole_text(store: Store) -> None:
    store.add(replace(GOOD, prediction="naïve 🐍"))
    rows = sqlite3.connect(store.path).execute("SELECT prediction, tokens_per_layer FROM sample")
    assert rows.fetchall() == [("naïve 🐍", "[64, 64, 32]")]


# The grid


def test_a_new_store_has_no_grid(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        assert (store.grid(), store.cells(), store.all_cells()) == (None, [], [])


def test_the_grid_is_replaced_and_earlier_cells_stay(store: Store) -> None:
    store.add(GOOD)
    renamed, new = replace(PLAIN, label="none"), replace(PLAIN, seed=9)
    store.begin([1], [("new", new), ("base", renamed)])
    assert store.grid() == [1]
    assert store.cells() == [("new", new), ("base", renamed)]
    assert store.all_cells() == [("new", new), ("base", renamed), ("k", CELL)]
    assert store.records("k") == [GOOD]
    assert store.add(replace(GOOD, sample="late"))  # from a cell of an earlier grid


def test_one_key_may_stand_in_several_tables(store: Store) -> None:
    cells = [("base", replace(PLAIN, budget=Budget("flops", target))) for target in (0.25, 0.5)] + [
        ("base", replace(PLAIN, label="other name"))
    ]
    store.begin({}, cells)
    assert store.cells() == cells
    store.begin({}, cells[:1])
    assert store.all_cells() == [cells[0], ("k", CELL)]


def test_questions_are_replaced_too(store: Store) -> None:
    assert store.questions() == {}
    store.begin({}, [("k", CELL)], {"one": ["b", "a"], "two": []})
    assert store.questions() == {"one": ["b", "a"], "two": []}
    store.begin({}, [("k", CELL)], {"two": ["c"]})
    assert store.questions() == {"two": ["c"]}


def test_begin_is_all_or_nothing(store: Store) -> None:
    broken = replace(PLAIN, setup=replace(PLAIN.setup, frames=object()))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        store.begin({}, [("new", PLAIN), ("broken", broken)])
    with pytest.raises(sqlite3.IntegrityError):  # in the middle of the transaction
        store.begin({}, [("new", PLAIN), ("broken", replace(PLAIN, label=None))])  # type: ignore[arg-type]
    assert store.cells() == [("k", CELL), ("base", PLAIN)]
    assert store.grid() == {"reducers": {}}


# Resuming


@pytest.mark.parametrize(
    ("old", "new", "added"),
    [
        (GOOD, GOOD, False),
        (GOOD, replace(GOOD, prediction="red", correct=True), False),
        (GOOD, BAD, False),
        (BAD, GOOD, True),
        (BAD, replace(BAD, error="another"), False),
        (GOOD, replace(GOOD, digest="d2", prediction="red"), True),
        (GOOD, replace(BAD, digest="d2"), True),
        (BAD, replace(BAD, digest="d2"), True),
    ],
)
def test_who_stays(store: Store, old: SampleRecord, new: SampleRecord, added: bool) -> None:
    assert store.add(old)
    assert store.add(new) is added
    assert store.records("k") == [new if added else old]


def test_another_question_takes_timings_and_pictures_away(store: Store) -> None:
    neighbours: list[Record] = [
        replace(TIMING, sample="other"),
        replace(PICTURE, sample="other"),
        replace(TIMING, cell="base"),
    ]
    store.add_many([GOOD, TIMING, PICTURE, *neighbours])
    store.add(replace(GOOD, digest="d2"))
    assert store.timings("k") == neighbours[:1]
    assert store.pictures("k") == neighbours[1:2]
    assert store.timings("base") == neighbours[2:]


def test_a_success_leaves_timings_alone(store: Store) -> None:
    store.add_many([BAD, TIMING])
    store.add(GOOD)
    assert store.timings("k") == [TIMING]


def test_the_first_timing_and_the_last_picture_and_calibration_stay(store: Store) -> None:
    assert [store.add(TIMING), store.add(replace(TIMING, ttft=9.0))] == [True, False]
    assert store.timings("k") == [TIMING]
    for record in (PICTURE, CALIBRATION):
        later = replace(record, document="later")
        assert [store.add(record), store.add(record), store.add(later)] == [True, False, True]
    assert [each.document for each in store.pictures("k")] == ["later"]
    assert store.calibrations() == {"unsolved": "later"}


def test_failed_questions_can_be_forgotten(store: Store) -> None:
    other = replace(BAD, cell="base")
    store.add_many([BAD, replace(GOOD, sample="fine"), other])
    assert store.forget_failed(["k"]) == 1
    assert list(store.finished("k")) == ["fine"]
    assert store.records("base") == [other]
    assert store.forget_failed(["k", "base", "nobody"]) == 1


def test_several_records_are_all_or_nothing(store: Store) -> None:
    assert store.add_many([GOOD, GOOD, TIMING]) == 2
    with pytest.raises(ConfigError, match=r"results\.sqlite has no cell 'x': begin a grid"):
        store.add_many([replace(GOOD, sample="new"), replace(GOOD, cell="x")])
    assert store.records("k") == [GOOD]
    assert store.add(replace(GOOD, sample="new"))


# Several at once

PRELUDE = """
import os, sys
from pathlib import Path
from tokenreduce import results_file
from tokenreduce.cells import Cell, Setup
from tokenreduce.records import SampleRecord
from tokenreduce.store import Store
folder, name = Path(sys.argv[1]), sys.argv[2]
cell = Cell(Setup("m", {"use": "b"}), "l", "r", ())
def record(number):
    return SampleRecord("k", f"{name}-{number}", "d", "c", "a", "x" * 300, True, None, 1, (1,) * 30)
"""


def process(code: str, folder: Path, name: str) -> subprocess.Popen[bytes]:
    sources = os.pathsep.join(str(ROOT / each) for each in (".", "plugins", "model_adapters"))
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code, str(folder), name],
        env={**os.environ, "PYTHONPATH": sources},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_processes_write_at_once(tmp_path: Path) -> None:
    # They also make the file at once: all wait for the same word.
    code = """
sys.stdout.write("ready\\n"); sys.stdout.flush()
sys.stdin.readline()
store = Store.open(folder)
store.begin({}, [("k", cell)])
new = sum(store.add(record(number)) for number in range(200))
again = sum(store.add(record(number)) for number in range(200))
assert (new, again) == (200, 0), (new, again)
store.close()
"""
    folder = tmp_path / "out"
    writers = [process(code, folder, str(number)) for number in range(4)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
    for writer in writers:
        writer.communicate(b"go\n", timeout=120)
    assert [writer.returncode for writer in writers] == [0] * 4
    with Store.read(folder) as store:
        wanted = {f"{writer}-{number}" for writer in range(4) for number in range(200)}
        assert set(store.finished("k")) == wanted
    assert integrity(folder) == "ok"


@pytest.mark.parametrize(
    ("disk", "kills"),
    [("ext4", 12), ("nfs4", 6), *(pytest.param(d, 100, marks=pytest.mark.slow) for d in DISKS)],
)
def test_what_was_added_outlives_a_kill(tmp_path: Path, disk: str, kills: int) -> None:
    # The pipe holds the numbers of the records that `add` returned from.
    code = f"""
results_file.file_system = lambda folder: {disk!r}
store = Store.open(folder)
store.begin({{}}, [("k", cell)])
number = 0
while True:
    store.add(record(number))
    os.write(1, b"%d\\n" % number)
    number += 1
"""
    draw = random.Random(0)
    acknowledged: set[str] = set()
    for name in map(str, range(kills)):
        writer = process(code, tmp_path, name)
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(draw.uniform(0, 0.1))
        writer.kill()
        rest, _ = writer.communicate()
        whole = (first + rest).rpartition(b"\n")[0].split(b"\n")
        acknowledged |= {f"{name}-{int(number)}" for number in whole}
        with Store.open(tmp_path) as store:
            found = set(store.finished("k"))
            assert found >= acknowledged
            assert store.add(SampleRecord("k", f"after-{name}", "d", "c", "a"))
            acknowledged.add(f"after-{name}")
        assert integrity(tmp_path) == "ok"
    assert len(acknowledged) >= 2 * kills  # no writer was killed before it added anything


def test_a_kill_while_the_file_is_made(tmp_path: Path) -> None:
    code = "sys.stdout.write('x'); sys.stdout.flush(); Store.open(folder); os.kill(os.getpid(), 9)"
    draw = random.Random(1)
    for number in range(4):
        writer = process(code, tmp_path / str(number), "")
        assert writer.stdout is not None
        writer.stdout.read(1)
        time.sleep(draw.uniform(0, 0.01))
        writer.kill()
        writer.communicate()
        with Store.open(tmp_path / str(number)) as store:
            store.begin({}, [("k", CELL)])
            assert store.add(GOOD)


def test_who_began_first_ends_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # Another writes between the reading and the writing of a transaction.
    other = Store.open(store.path.parent)
    thread = threading.Thread(target=other.add, args=(replace(GOOD, sample="other"),))
    check = store._check_cell

    def check_slowly(key: str) -> None:
        check(key)
        thread.start()
        time.sleep(0.1)

    monkeypatch.setattr(store, "_check_cell", check_slowly)
    assert store.add(GOOD)
    thread.join()
    assert sorted(store.finished("k")) == ["clip-1", "other"]
    other.close()


def test_another_makes_the_file_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = results_file._check

    def check_slowly(db: sqlite3.Connection, path: Path) -> bool:
        made = check(db, path)
        monkeypatch.setattr(results_file, "_check", check)
        with Store.open(tmp_path) as faster:
            faster.begin({}, [("k", CELL)])
        return made

    monkeypatch.setattr(results_file, "_check", check_slowly)
    with Store.open(tmp_path) as store:
        assert store.add(GOOD)


@pytest.mark.parametrize("statement", ["SELECT * FROM cell", "DELETE FROM cell"])
def test_the_log_is_waited_for(tmp_path: Path, statement: str) -> None:
    filled(tmp_path)
    other = sqlite3.connect(tmp_path / FILE, check_same_thread=False, isolation_level=None)
    assert other.execute("PRAGMA journal_mode=DELETE").fetchone() == ("delete",)
    other.execute("BEGIN")
    other.execute(statement).fetchall()
    timer = threading.Timer(0.3, other.close)
    timer.start()
    with Store.open(tmp_path) as store:
        assert journal(store) == ("wal", 1)
        assert store.cells() == [("k", CELL)]
    timer.join()


def test_threads_share_a_store(store: Store) -> None:
    def write(name: int) -> None:
        for number in range(50):
            assert store.add(replace(GOOD, sample=f"{name}-{number}"))

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.finished("k")) == 200


def test_readers_see_what_was_added_and_a_snapshot_one_state(store: Store) -> None:
    with Store.read(store.path.parent) as reader:
        assert reader.records("k") == []
        store.add(GOOD)
        assert reader.records("k") == [GOOD]
        with reader.snapshot():
            assert len(reader.records("k")) == 1
            store.add(replace(GOOD, sample="later"))
            assert len(reader.records("k")) == 1
        assert len(reader.records("k")) == 2


def test_readers_cannot_write(store: Store) -> None:
    with Store.read(store.path.parent) as reader:
        with pytest.raises(ConfigError, match="readonly"):
            reader.add(GOOD)
        assert store.add(GOOD)


# Files that are not ours, damaged, or in the wrong place


def refused(folder: Path, match: str) -> None:
    """Check that a file is refused, in words that name it, and left as it is."""
    before = (folder / FILE).read_bytes()
    for way in (Store.open, Store.read):
        with pytest.raises(ConfigError, match=match) as caught:
            way(folder)
        assert str(folder / FILE) in str(caught.value)
    assert (folder / FILE).read_bytes() == before


@pytest.mark.parametrize("content", [b"precious", b"\0" * 5000, b"SQLite format 3\0" + b"x" * 9000])
def test_a_file_that_is_no_database(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    refused(tmp_path, "is not a results file, or is damaged .*: move it away")


@pytest.mark.parametrize("statement", ["CREATE TABLE t (x)", "PRAGMA user_version=1"])
def test_a_database_of_another_program(tmp_path: Path, statement: str) -> None:
    db = sqlite3.connect(tmp_path / FILE)
    db.execute(statement)
    db.close()
    refused(tmp_path, "of another program or of an older tokenreduce: give another folder")


def test_a_file_of_another_version(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    db = sqlite3.connect(tmp_path / FILE)
    db.execute("PRAGMA user_version=77")
    db.close()
    refused(tmp_path, "is of version 77, and this tokenreduce has version 1: give another folder")


def filled(folder: Path) -> None:
    with Store.open(folder) as store:
        store.begin({}, [("k", CELL)])
        store.add_many(replace(GOOD, sample=str(number)) for number in range(300))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    filled(tmp_path)
    size = (tmp_path / FILE).stat().st_size
    os.truncate(tmp_path / FILE, int(size * share))
    refused(tmp_path, "is not a results file, or is damaged")


def test_a_file_with_a_damaged_page(tmp_path: Path) -> None:
    filled(tmp_path)
    with (tmp_path / FILE).open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * ((tmp_path / FILE).stat().st_size - 4096))
    with pytest.raises(ConfigError, match="damaged"), Store.open(tmp_path) as store:
        store.records("k")


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    (tmp_path / FILE).touch()
    with pytest.raises(ConfigError, match=r"results\.sqlite is empty: give a folder"):
        Store.read(tmp_path)
    with Store.open(tmp_path) as store:
        assert store.cells() == []


def test_there_is_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.results\.sqlite is missing: give a folder"):
        Store.read(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_folder_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "a b%41?#'\"" / "ü"
    filled(folder)
    assert [path.name for path in folder.iterdir()] == [FILE]
    with Store.read(folder) as store:
        assert len(store.records("k")) == 300


def test_the_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file cannot be made \(File exists\): give another"):
        Store.open(tmp_path / "file")


def test_the_file_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    for way in (Store.open, Store.read):
        with pytest.raises(ConfigError, match="cannot be used"):
            way(tmp_path)


@contextmanager
def another_user() -> Iterator[None]:
    """Be a user who may not do everything, if this one may."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def published() -> Iterator[Path]:
    """Give a folder of results that others can read and not write."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "out"
        filled(folder)
        Path(name).chmod(0o755)
        folder.chmod(0o555)
        (folder / FILE).chmod(0o444)
        yield folder
        folder.chmod(0o755)


def test_a_folder_that_cannot_be_written_can_be_read(published: Path) -> None:
    with another_user():
        with Store.read(published) as store:
            assert len(store.records("k")) == 300
        with pytest.raises(ConfigError, match=r"cannot be used .*: see that its folder can be"):
            Store.open(published)
        with pytest.raises(ConfigError, match=r"cannot be made \(Permission denied\)"):
            Store.open(published / "inner")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
def test_another_user_reads_while_one_writes(published: Path) -> None:
    with Store.open(published) as store:
        store.add(replace(GOOD, sample="new"))
        with another_user(), Store.read(published) as reader:
            assert len(reader.records("k")) == 301
            store.add(replace(GOOD, sample="newer"))
            assert len(reader.records("k")) == 302


def test_a_full_disk_loses_nothing(store: Store) -> None:
    store.add(GOOD)
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(ConfigError, match=r"has no room .*: what is finished is kept"):
        store.add_many(replace(GOOD, sample=str(number)) for number in range(1000))
    assert store.records("k") == [GOOD]
    store._db.execute("PRAGMA max_page_count=1000000")
    assert store.add(replace(GOOD, sample="later"))


# Network disks


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_file, "file_system", lambda folder: "nfs4")
    monkeypatch.setattr(results_file, "_WAIT_ALONE", 0.1)


def journal(store: Store) -> tuple[str, int]:
    mode, safe = (store._db.execute(f"PRAGMA {name}") for name in ("journal_mode", "synchronous"))
    return mode.fetchone()[0], safe.fetchone()[0]


def test_a_local_disk_has_a_write_ahead_log(store: Store) -> None:
    assert store.notice == ""
    assert journal(store) == ("wal", 1)  # NORMAL


@pytest.mark.usefixtures("network")
def test_a_network_disk_has_one_writer_and_no_log(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        assert f"{tmp_path} is on a nfs4" in store.notice
        assert journal(store) == ("delete", 2)  # FULL
        store.begin({}, [("k", CELL)])
        store.add(GOOD)
        assert not list(tmp_path.glob("*-wal")) + list(tmp_path.glob("*-shm"))
        for way in (Store.open, Store.read):
            with pytest.raises(ConfigError, match=r"in use by another process .*: wait until"):
                way(tmp_path)
    with Store.read(tmp_path) as reader:
        assert reader.records("k") == [GOOD]


def test_a_disk_that_cannot_have_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_file, "_wal", lambda db: False)  # as SQLite says there
    with Store.open(tmp_path) as store:
        assert "is on a file system without shared memory" in store.notice
        assert journal(store) == ("delete", 2)


@pytest.mark.usefixtures("network")
def test_another_process_cannot_write_on_a_network_disk(tmp_path: Path) -> None:
    code = """
results_file.file_system = lambda folder: "nfs4"
from tokenreduce.errors import ConfigError
try:
    Store.open(folder)
except ConfigError as error:
    sys.stdout.write(str(error))
"""
    with Store.open(tmp_path):
        said, _ = process(code, tmp_path, "").communicate()
    assert b"is in use by another process (database is locked)" in said
    assert process(code, tmp_path, "").communicate()[0] == b""


def test_a_file_goes_between_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path)
    for number, kind in enumerate(["nfs4", "ext4", "fuse.sshfs", "xfs"]):
        monkeypatch.setattr(results_file, "file_system", lambda folder, kind=kind: kind)
        with Store.open(tmp_path) as store:
            assert journal(store)[0] == ("delete" if kind in ("nfs4", "fuse.sshfs") else "wal")
            assert store.add(replace(GOOD, sample=kind))
            assert len(store.records("k")) == 301 + number
        with Store.read(tmp_path) as store:
            assert len(store.records("k")) == 301 + number
    assert integrity(tmp_path) == "ok"


def test_other_tables_are_another_version() -> None:
    # Who changes a record changes the tables: raise VERSION, unless no release had this one.
    columns = {name: len(fields(record)) for name, (record, _) in results_file.TABLES.items()}
    known = {"sample": 18, "timing": 6, "picture": 4, "calibration": 2}
    assert (results_file.VERSION, columns) == (1, known)
    assert sum("CREATE TABLE" in each for each in results_file.schema()) == len(known) + 3
