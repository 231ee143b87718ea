"""The results file as tables for other programs: CSV, JSON and Parquet."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tokenreduce.cells import Cell
from tokenreduce.errors import ConfigError
from tokenreduce.names import suggestion
from tokenreduce.records import Record, SampleRecord, TimingRecord
from tokenreduce.store import Store

_KINDS = {"str": "text", "int": "integer", "float": "number", "bool": "boolean"}
_KINDS["tuple[int, ...]"] = "integers"
_BATCH = 10_000  # rows that are held in memory at once


@dataclass(frozen=True, slots=True)
class Column:
    """A column; ``kind`` is text, integer, number, boolean, integers (a list) or json (as text)."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table; its rows can be gone through once."""

    name: str
    columns: tuple[Column, ...]
    rows: Iterator[tuple[Any, ...]]


def export(store: Store, path: Path, form: str) -> list[Path]:
    """Write the tables ``cells``, ``samples`` and ``timings`` of the grid as it is now.

    Settings of a cell are columns with dotted names, such as ``reducers.0.ratio``. Rows stand in
    the order of the cells, the samples' ids and the rounds, so that files are equal byte for byte
    if the results are. Questions that the grid does not ask any more are left out. Times are in
    ``timings`` only.

    Parameters
    ----------
    store
        Where the results are; others may be writing to it.
    path
        A folder, made if it is missing; files of an earlier export in it are replaced.
    form
        ``csv``, ``json`` or ``parquet``.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    ConfigError
        If there is no such form, a library that it needs is missing, or the folder cannot be
        written.
    """
    if form not in _WRITERS:
        raise ConfigError(f"'{form}' is no format of an export: {suggestion(form, _WRITERS)}")
    if form == "parquet":
        _check_pyarrow()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with store.snapshot():
            return [_write(table, path, form) for table in tables(store)]
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error.strerror}): give another folder."
        ) from error


def tables(store: Store) -> Iterator[Table]:
    """Yield the tables; inside :meth:`tokenreduce.store.Store.snapshot` they fit each other."""
    cells = store.cells()
    settings = [_settings(cell) for _, cell in cells]
    columns = tuple(_setting_columns(settings))
    heads = [
        (key, cell.label, cell.row, cell.reducer, *_values(columns, found))
        for (key, cell), found in zip(cells, settings, strict=True)
    ]
    names = (*(Column(name, "text") for name in ("cell", "label", "row", "reducer")), *columns)
    summaries = [(*head, cell.summary) for head, (_, cell) in zip(heads, cells, strict=True)]
    yield Table("cells", (*names, Column("summary", "text")), iter(summaries))
    asked = {setup: set(ids) for setup, ids in store.questions().items()}
    wanted = [
        (head, asked.get(cell.setup.key())) for head, (_, cell) in zip(heads, cells, strict=True)
    ]
    yield Table("samples", (*names, *_columns(SampleRecord)), _joined(wanted, store.records))
    yield Table("timings", (*names, *_columns(TimingRecord)), _joined(wanted, store.timings))


def _settings(cell: Cell) -> dict[str, Any]:
    nested = {**cell.config(), "budget": asdict(cell.budget) if cell.budget else {}}
    return dict(_flat(nested, ()))


def _flat(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield dotted name and value of everything below a value in JSON types."""
    entries: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        entries = value.items()
    elif isinstance(value, list | tuple):
        entries = enumerate(value)
    else:
        yield ".".join(path), value
    for key, entry in entries:
        # A dot in a name would make two settings one.
        word = json.dumps(key) if "." in str(key) else str(key)
        yield from _flat(entry, (*path, word))


def _setting_columns(settings: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Return the columns of all cells, those of one part of the configuration together."""
    names = list(dict.fromkeys(name for found in settings for name in found))
    parts = list(dict.fromkeys(name.partition(".")[0] for name in names))
    names.sort(key=lambda name: parts.index(name.partition(".")[0]))
    return [Column(name, _kind([found.get(name) for found in settings])) for name in names]


def _kind(values: Iterable[Any]) -> str:
    """Return the kind of column that can hold values from different cells."""
    known = [value for value in values if value is not None]
    types = set(map(type, known))
    if types <= {str}:
        return "text"
    if types == {bool}:
        return "boolean"
    if types == {int} and all(-(2**63) <= value < 2**63 for value in known):
        return "integer"
    return "number" if types <= {int, float} and float in types else "json"


def _values(columns: Iterable[Column], found: Mapping[str, Any]) -> Iterator[Any]:
    for column in columns:
        value = found.get(column.name)
        if value is not None and column.kind == "number":
            value = float(value)
        yield json.dumps(value) if value is not None and column.kind == "json" else value


def _columns(record: type[Record]) -> Iterator[Column]:
    for each in fields(record):
        if each.name != "cell":
            yield Column(each.name, _KINDS[str(each.type).partition(" | ")[0]])


def _joined(
    wanted: Iterable[tuple[tuple[Any, ...], set[str] | None]],
    records: Callable[[str], Sequence[SampleRecord | TimingRecord]],
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of all cells: the head of the cell, then what is recorded of a question."""
    for head, samples in wanted:
        for record in records(head[0]):
            if samples is None or record.sample in samples:
                names = (each.name for each in fields(record) if each.name != "cell")
                yield (*head, *(getattr(record, name) for name in names))


def _write(table: Table, folder: Path, form: str) -> Path:
    path = folder / f"{table.name}.{form}"
    part = path.with_name(f"{path.name}.part")  # nobody finds half a table under its name
    rows = (tuple(map(_plain, row)) for row in table.rows)
    _WRITERS[form](part, table.columns, rows)
    return part.replace(path)


def _plain(value: Any) -> Any:
    """Write half a surrogate pair, which is no UTF-8, as a backslash and its number."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    return value


def _write_csv(path: Path, columns: Sequence[Column], rows: Iterator[tuple[Any, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        for row in itertools.chain([[column.name for column in columns]], rows):
            file.write(",".join(map(_csv, row)) + "\n")


def _csv(value: Any) -> str:
    # The csv module cannot tell a missing text from an empty one, nor quotes all line ends.
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value)
    return '"' + text.replace('"', '""') + '"' if isinstance(value, str | tuple) else text


def _write_json(path: Path, columns: Sequence[Column], rows: Iterator[tuple[Any, ...]]) -> None:
    names = [column.name for column in columns]
    with path.open("w", encoding="utf-8", newline="") as file:
        before = "[\n"
        for row in rows:
            file.write(before + json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False))
            before = ",\n"
        file.write("\n]\n" if before == ",\n" else "[]\n")


def _write_parquet(path: Path, columns: Sequence[Column], rows: Iterator[tuple[Any, ...]]) -> None:
    import pyarrow
    from pyarrow import parquet

    types = {
        "integer": pyarrow.int64(),
        "number": pyarrow.float64(),
        "boolean": pyarrow.bool_(),
        "integers": pyarrow.list_(pyarrow.int64()),
    }
    schema = pyarrow.schema(
        [(each.name, types.get(each.kind, pyarrow.string())) for each in columns]
    )
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while batch := list(itertools.islice(rows, _BATCH)):
            values = [list(column) for column in zip(*batch, strict=True)]
            writer.write_table(pyarrow.table(values, schema=schema))


def _check_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "Parquet needs pyarrow: pip install 'tokenreduce[export]', or choose csv or json."
        ) from error


_WRITERS = {"csv": _write_csv, "json": _write_json, "parquet": _write_parquet}
