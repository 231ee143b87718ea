"""The command `paper`; :mod:`tokenreduce.cli` adds it to the others."""

from __future__ import annotations

import json
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
    from tokenreduce.paper.availability import Ours
    from tokenreduce.paper.recipes import Recipe
    from tokenreduce.plugins import PluginManager
    from tokenreduce.results import Results


def paper_command(
    ctx: typer.Context,
    recipe: Annotated[
        str | None, typer.Argument(metavar="[RECIPE]", help="By default: say which there are.")
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="DIR", help="Folder of a checkpoint, or 'embedded'.")
    ] = "embedded",
    benchmark: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="As in lmms:videomme or jsonl:FILE; by default the recipe's."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep the results here; given again, it is resumed."),
    ] = None,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    show: Annotated[
        bool, typer.Option("--show", help="Only print the recipe's grid, to copy and change.")
    ] = False,
    engine: EngineName = "local",
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="0: in this process. By default 0 for the embedded model."),
    ] = None,
    retry_failed: RetryFailed = False,
) -> None:
    """Run a table or figure of the paper, and print our numbers beside the paper's.

    The last line is one JSON document.

    \b
    Examples:
      tokenreduce paper
      tokenreduce paper table1 --dry-run
      tokenreduce paper table4 --out my-results
      tokenreduce paper axes --set limit=40
      tokenreduce paper table1 --model my-checkpoint --benchmark jsonl:my-questions.jsonl --dry-run
    """  # noqa: D301 - \b keeps the lines of the examples apart
    from tokenreduce.paper.recipes import find_recipe

    if recipe is None:
        _list_recipes()
        return
    chosen = find_recipe(recipe)
    if show:
        typer.echo(chosen.text.rstrip())
        return
    if chosen.figure is not None and out is None and not dry_run:
        raise ConfigError(f"'{recipe}' draws pictures: say with --out DIR where they go.")
    prepare_libraries(model)
    asked = _Asked(ctx, chosen, model, benchmark, overrides or [])
    if dry_run:
        asked.print_cost()
        return
    options = {"engine": engine, "workers": workers, "retry_failed": retry_failed}
    if asked.run(out, options).failed:
        raise typer.Exit(WORK_FAILED)


def _list_recipes() -> None:
    from tokenreduce.paper.recipes import RECIPES

    width = max(map(len, RECIPES))
    for recipe in RECIPES.values():
        typer.echo(f"{recipe.name:<{width}}  {recipe.answers}")


class _Asked:
    """A recipe for one model and benchmark, checked."""

    def __init__(
        self,
        ctx: typer.Context,
        recipe: Recipe,
        model: str,
        benchmark: str | None,
        overrides: list[str],
    ) -> None:
        from tokenreduce.ablations.grid import parse_grid
        from tokenreduce.config import check_model, plugin_settings
        from tokenreduce.overrides import apply_overrides
        from tokenreduce.paper.models import paper_model
        from tokenreduce.paper.recipes import filled
        from tokenreduce.problems import Report

        report = Report()
        check_model(model, report)
        report.raise_if_any("the options of `paper`")
        self.recipe = recipe
        self.manager: PluginManager = ctx.obj.load(plugin_settings(apply_overrides({}, overrides)))
        self.known = paper_model(model, self.manager.registry)
        self.data: dict[str, Any] = filled(
            recipe, model=model, known=self.known, benchmark=benchmark, overrides=overrides
        )
        source = f"the recipe '{recipe.name}'"
        self.grid: Grid = parse_grid(self.data, class_names(self.manager), source)

    def ours(self) -> Ours:
        """Return what our numbers are made of."""
        from tokenreduce.inference import pick_device
        from tokenreduce.paper.outcome import ours_of

        setup = self.grid.cells[0].setup
        device, timed = pick_device(setup.device), self.grid.timing is not None
        return ours_of(setup.config(), self.known, device, timed=timed)

    def print_cost(self) -> None:
        """Print what the cells cost, and Img-Memory beside the paper's."""
        from rich.console import Console

        from tokenreduce.ablations.dry_run import dry_run
        from tokenreduce.paper.outcome import from_dry_run

        with progress_bar("laying out prompts") as tell:
            cost = dry_run(self.grid, self.manager.registry, tell)
        outcome, console = from_dry_run(self.recipe, self.ours(), cost), Console()
        cost.print(console)
        outcome.print(console)
        typer.echo(json.dumps({**outcome.document(), "cost": cost.document()}))

    def run(self, out: Path | None, options: dict[str, Any]) -> Results:
        """Run the recipe, and print what it came to."""
        from tokenreduce.ablations.run import RunInterrupted, ablate
        from tokenreduce.config import EMBEDDED_MODEL

        if options["workers"] is None and self.data["model"] == EMBEDDED_MODEL:
            options["workers"] = 0
        try:
            with grid_progress() as tell:
                results = ablate(
                    self.data,
                    out,
                    progress=tell,
                    plugins=self.manager,
                    say=lambda line: typer.echo(f"tokenreduce: {line}", err=True),
                    **options,
                )
        except RunInterrupted as interrupted:
            self._print(interrupted.results, None)
            raise
        self._print(results, out)
        return results

    def _print(self, results: Results, out: Path | None) -> None:
        from rich.console import Console

        from tokenreduce.paper.outcome import from_results

        console = Console()
        for table in results.tables:
            table.print(console)
        for note in results.notes:
            typer.echo(f"tokenreduce: {note}", err=True)
        rows = results.tables[0].rows if results.tables else ()
        outcome = from_results(self.recipe, self.ours(), rows)
        outcome.print(console)
        drawn = self._draw(out) if self.recipe.figure is not None and out is not None else {}
        document = {**outcome.document(), **drawn, "results": results.document()}
        typer.echo(json.dumps(document, allow_nan=False))

    def _draw(self, out: Path) -> dict[str, Any]:
        """Draw the recipe's figure, and say where it is."""
        from dataclasses import asdict

        from tokenreduce.paper.trends import read_trends
        from tokenreduce.pictures.report import write_report

        kind = {2: "frames-over-layers", 3: "frames-by-row"}[self.recipe.figure or 0]
        files = [str(p) for p in write_report(out, out / "report") if p.stem.startswith(kind)]
        for file in files:
            typer.echo(file)
        trends = read_trends(out)
        if trends is not None:
            typer.echo(str(trends))
        return {"files": files, "trends": None if trends is None else asdict(trends)}
