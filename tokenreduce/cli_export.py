"""The command `export`; :mod:`tokenreduce.cli` adds it to the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the results are.")],
    form: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="csv, json or parquet.")
    ] = "csv",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the files go; by default DIR/export."),
    ] = None,
) -> None:
    """Write results as tables for other programs: cells, samples and timings.

    \b
    Examples:
      tokenreduce export my-results
      tokenreduce export my-results --format parquet --out tables
    """  # noqa: D301 - \b keeps the lines of the examples apart
    from tokenreduce.export import export
    from tokenreduce.store import Store

    with Store.read(folder) as store:
        for path in export(store, out or folder / "export", form):
            typer.echo(path)
