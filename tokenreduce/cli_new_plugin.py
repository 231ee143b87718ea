"""The command `new-plugin`; :mod:`tokenreduce.cli` adds it to the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenreduce.errors import ConfigError


def new_plugin_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as my-reducer.")],
    adapter: Annotated[bool, typer.Option("--adapter", help="A model adapter.")] = False,
    benchmark: Annotated[bool, typer.Option("--benchmark", help="A benchmark.")] = False,
    into: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="An empty or new folder; by default tokenreduce-NAME."),
    ] = None,
) -> None:
    """Write a plugin of your own: an installable distribution with one reducer and its tests.

    \b
    Examples:
      tokenreduce new-plugin my-reducer
      tokenreduce new-plugin my-family --adapter
      tokenreduce new-plugin my-questions --benchmark --into work/my-questions
    """  # noqa: D301 - \b keeps the lines of the examples apart
    from tokenreduce.templates import PluginKind, new_plugin

    if adapter and benchmark:
        raise ConfigError("--adapter and --benchmark are two plugins: write one at a time.")
    kind: PluginKind = "adapter" if adapter else "benchmark" if benchmark else "reducer"
    files = new_plugin(name, kind, into)
    for path in files:
        typer.echo(path)
    typer.echo(f"next: pip install -e '{files[0].parent}[test]' && pytest {files[0].parent}")
