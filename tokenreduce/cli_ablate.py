"""The command `ablate`; :mod:`tokenreduce.cli` adds it to the others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenreduce.console import (
    WORK_FAILED,
    DryRun,
    EngineName,
    Overrides,
    RetryFailed,
    class_names,
    grid_progress,
    prepare_libraries,
    progress_bar,
)
from tokenreduce.errors import ConfigError

if TYPE_CHECKING:
    from tokenreduce.ablations.grid import Grid
    from tokenreduce.plugins import PluginManager
    from tokenreduce.results import Results


def ablate_command(
    ctx: typer.Context,
    grid: Annotated[Path, typer.Argument(metavar="GRID.yaml", help="What to run.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder of the results; given again, it is resumed or extended."
        ),
    ] = None,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    engine: EngineName = "local",
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="By default what the machine has room for; 0: in this process."),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray only: the cluster; by default one of its own.")
    ] = None,
    gpus: Annotated[
        float | None, typer.Option(help="Ray only: GPUs of a worker, which may be a fraction.")
    ] = None,
    retry_failed: RetryFailed = False,
) -> None:
    """Run a grid of models, benchmarks, reducers, settings and seeds, and print its tables.

    The last line is one JSON document.

    \b
    Examples:
      tokenreduce ablate grid.yaml --out my-results
      tokenreduce ablate grid.yaml --dry-run
      tokenreduce ablate grid.yaml --out my-results --set 'frames={sweep: [8, 16]}' --workers 2
    """  # noqa: D301 - \b keeps the lines of the examples apart
    from tokenreduce.ablations.grid import parse_grid
    from tokenreduce.config import EMBEDDED_MODEL, plugin_settings
    from tokenreduce.overrides import apply_overrides, read_yaml

    data = apply_overrides(read_yaml(grid), overrides or [])
    manager = ctx.obj.load(plugin_settings(data))
    parsed = parse_grid(data, class_names(manager), f"'{grid}'")
    models = {cell.setup.model for cell in parsed.cells}
    prepare_libraries(EMBEDDED_MODEL if models == {EMBEDDED_MODEL} else "")
    if dry_run:
        _print_cost(parsed, manager)
        return
    if out is None:
        raise ConfigError(f"'{grid}': say with --out DIR where the results go, or use --dry-run.")
    options: dict[str, Any] = {"address": address, "gpus": gpus}
    given = {name: value for name, value in options.items() if value is not None}
    results = _run(data, out, manager, engine, workers, retry_failed, given)
    _print_results(results)
    if results.failed:
        raise typer.Exit(WORK_FAILED)


def _run(
    data: dict[str, Any],
    out: Path,
    manager: PluginManager,
    engine: str,
    workers: int | None,
    retry_failed: bool,
    options: dict[str, Any],
) -> Results:
    from tokenreduce.ablations.run import RunInterrupted, ablate

    try:
        with grid_progress() as tell:
            return ablate(
                data,
                out,
                engine=engine,
                workers=workers,
                progress=tell,
                plugins=manager,
                retry_failed=retry_failed,
                say=lambda line: typer.echo(f"tokenreduce: {line}", err=True),
                **options,
            )
    except RunInterrupted as stopped:
        _print_results(stopped.results)
        raise


def _print_results(results: Results) -> None:
    import json

    from rich.console import Console

    console = Console()
    for table in results.tables:
        table.print(console)
    for note in results.notes:
        typer.echo(f"tokenreduce: {note}", err=True)
    typer.echo(json.dumps(results.document(), allow_nan=False))


def _print_cost(grid: Grid, manager: PluginManager) -> None:
    from rich.console import Console

    from tokenreduce.ablations.dry_run import dry_run

    with progress_bar("laying out prompts") as tell:
        cost = dry_run(grid, manager.registry, tell)
    cost.print(Console())
    typer.echo(cost.to_json())
