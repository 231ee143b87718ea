"""The command `report`; :mod:`tokenreduce.cli` adds it to the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the results are.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the files go; by default DIR/report."),
    ] = None,
) -> None:
    """Draw results: an HTML page that opens from disk, and its figures as SVG and PNG.

    \b
    Examples:
      tokenreduce report my-results
      tokenreduce report my-results --out pictures
    """  # noqa: D301 - \b keeps the lines of the examples apart
    from tokenreduce.pictures.report import write_report

    for path in write_report(folder, out or folder / "report"):
        typer.echo(path)
