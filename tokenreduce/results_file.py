"""How the results file is opened, on local and on network disks; and what its errors mean."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from tokenreduce.errors import ConfigError
from tokenreduce.file_systems import file_system, is_network
from tokenreduce.records import (
    CalibrationRecord,
    PictureRecord,
    Record,
    SampleRecord,
    TimingRecord,
)

FILE_NAME = "results.sqlite"
VERSION = 1
"""Of the tables; a file of another version is refused."""

_APPLICATION = 0x746F6B72  # "tokr": tells our files from those of other programs
_WAIT, _WAIT_ALONE = 60.0, 2.0  # seconds for a lock; who writes alone keeps it until the end

TABLES: dict[str, tuple[type[Record], str]] = {
    "sample": (SampleRecord, "cell, sample"),
    "timing": (TimingRecord, "cell, sample, round"),
    "picture": (PictureRecord, "cell, sample, kind"),
    "calibration": (CalibrationRecord, "cell"),
}
"""Name of a table to its records, whose fields are its columns, and to its primary key."""

_TYPES = {"str": "TEXT", "int": "INTEGER", "float": "REAL", "bool": "INTEGER"}
_TYPES["tuple[int, ...]"] = "TEXT"  # as JSON, which SQLite can take apart

_DAMAGED = "is not a results file, or is damaged", "move it away or give another folder"
_IN_USE = "is in use by another process", "wait until that has ended"
_ADVICE = {
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_BUSY: _IN_USE,
    sqlite3.SQLITE_LOCKED: _IN_USE,
    sqlite3.SQLITE_FULL: ("has no room", "what is finished is kept, so make room and run again"),
}
_OTHER = "cannot be used", "see that its folder can be read and written, or give another one"


def open_to_write(path: Path) -> tuple[sqlite3.Connection, str]:
    """Open or make a results file in a folder that exists.

    Returns
    -------
    tuple
        The connection, in autocommit mode, and a notice for the user, empty on a local disk.

    Raises
    ------
    ConfigError
        If the file is no results file, is of another version or cannot be written.
    """
    kind = file_system(path.parent)
    alone = is_network(kind)
    with explained(path), _connection(path, "rwc", _WAIT_ALONE if alone else _WAIT) as db:
        if alone:  # before the file is touched: a write-ahead log would be opened in shared memory
            db.execute("PRAGMA locking_mode=EXCLUSIVE")
        made = _check(db, path)
        notice = _set_journal(db, path, kind if alone else "")
        if not made:
            _make_tables(db)
        return db, notice


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open a results file that exists; others may be writing to it.

    Raises
    ------
    ConfigError
        If there is none, it is no results file, or it is of another version.
    """
    if not path.exists():
        raise ConfigError(f"{path} is missing: give a folder that results were written to.")
    with explained(path):
        try:
            return _opened_to_read(path, "rw")
        except sqlite3.OperationalError as error:
            # The log of a file in a folder that cannot be written cannot be opened. If there is
            # none, nobody writes, and the file is all there is.
            code = error.sqlite_errorcode & 0xFF
            logged = path.with_name(path.name + "-wal").exists()
            if logged or code not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                raise
            return _opened_to_read(path, "ro&immutable=1")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what SQLite says about a file into a :class:`ConfigError` with a way out."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if type(error) not in (sqlite3.DatabaseError, sqlite3.OperationalError):
            raise  # not about the file
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        what, way_out = _ADVICE.get(code, _OTHER)
        raise ConfigError(f"{path} {what} ({error}): {way_out}.") from error


@contextmanager
def transaction(db: sqlite3.Connection, kind: str) -> Iterator[None]:
    """Commit what is done inside, or nothing of it."""
    db.execute(f"BEGIN {kind}")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite itself rolls back where a disk is full
            db.execute("ROLLBACK")
        raise


def schema() -> list[str]:
    """Return the statements that make an empty results file."""
    return [
        "CREATE TABLE grid (document TEXT NOT NULL)",
        "CREATE TABLE question (setup TEXT NOT NULL PRIMARY KEY, samples TEXT NOT NULL)",
        "CREATE TABLE cell (position INTEGER, key TEXT NOT NULL, label TEXT NOT NULL, "
        '"row" TEXT NOT NULL, reducer TEXT NOT NULL, seed INTEGER NOT NULL, '
        "summary TEXT NOT NULL, config TEXT NOT NULL, budget TEXT)",
        "CREATE INDEX cell_by_key ON cell (key)",
        *(_table(name, record, key) for name, (record, key) in TABLES.items()),
        f"PRAGMA application_id={_APPLICATION}",
        f"PRAGMA user_version={VERSION}",
    ]


@contextmanager
def _connection(path: Path, mode: str, wait: float) -> Iterator[sqlite3.Connection]:
    """Give a new connection, and close it if what is done with it first fails."""
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=wait,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        yield db
    except BaseException:
        db.close()
        raise


def _opened_to_read(path: Path, mode: str) -> sqlite3.Connection:
    with _connection(path, mode, _WAIT_ALONE) as db:
        if not _check(db, path):
            raise ConfigError(f"{path} is empty: give a folder that results were written to.")
        db.execute("PRAGMA query_only=ON")
        return db


def _check(db: sqlite3.Connection, path: Path) -> bool:
    """Return whether the tables are there; raise if the file is not ours or of another version."""
    with transaction(db, "DEFERRED"):  # one state of the file, while others may be making it
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (entries,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if (application, version, entries) == (0, 0, 0):
        return False
    if application != _APPLICATION:
        raise ConfigError(
            f"{path} is an SQLite file of another program or of an older tokenreduce: "
            "give another folder."
        )
    if version != VERSION:
        raise ConfigError(
            f"{path} is of version {version}, and this tokenreduce has version {VERSION}: "
            "give another folder, or use the tokenreduce that made it."
        )
    return True


def _set_journal(db: sqlite3.Connection, path: Path, network: str) -> str:
    """Choose how commits are made safe; return what the user should know about it."""
    if not network and _wal(db):
        # A commit is in the log, by a write to the operating system, before it returns. Whatever
        # kills the process then, the system still has those pages; NORMAL only leaves out the
        # flush to the disk, so that a power cut may lose the last commits, but no more.
        db.execute("PRAGMA synchronous=NORMAL")
        return ""
    db.execute("PRAGMA locking_mode=EXCLUSIVE")
    db.execute("PRAGMA journal_mode=DELETE")
    db.execute("PRAGMA synchronous=FULL")
    with transaction(db, "EXCLUSIVE"):
        pass  # the lock is kept from here on
    kind = network or "file system without shared memory"
    return (
        f"{path.parent} is on a {kind}, where SQLite's write-ahead log is not safe: "
        "one process writes, and none can read until it has ended."
    )


def _wal(db: sqlite3.Connection) -> bool:
    """Turn the write-ahead log on, and return whether the file system can have it."""
    # SQLite does not wait by itself if another process does the same at this moment.
    until = time.monotonic() + _WAIT
    while True:
        try:
            return bool(db.execute("PRAGMA journal_mode=WAL").fetchone()[0] == "wal")
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > until:
                raise
            time.sleep(0.01)


def _table(name: str, record: type[Record], key: str) -> str:
    columns = []
    for each in fields(record):
        kind, _, nothing = str(each.type).partition(" | ")
        columns.append(f"{each.name} {_TYPES[kind]}{'' if nothing else ' NOT NULL'}")
    return f"CREATE TABLE {name} ({', '.join(columns)}, PRIMARY KEY ({key}))"


def _make_tables(db: sqlite3.Connection) -> None:
    with transaction(db, "IMMEDIATE"):
        (entries,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if entries:  # another process was faster
            return
        for statement in schema():
            db.execute(statement)
