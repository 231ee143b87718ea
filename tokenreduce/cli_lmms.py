"""The command `export-lmms`; :mod:`tokenreduce.cli` adds it to the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from tokenreduce.console import class_names, progress_bar


def export_lmms_command(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the task's files.")],
    benchmark: Annotated[
        str, typer.Option(metavar="NAME", help="A benchmark, or NAME:VALUE for its main setting.")
    ] = "embedded",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change one setting; may be repeated."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="TASK", help="By default tokenreduce_NAME.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 16,
) -> None:
    """Write a benchmark as a task of lmms-eval, which runs it with --include_path DIR.

    \b
    Examples:
      tokenreduce export-lmms --out tasks
      tokenreduce export-lmms --out tasks --set split=full --name embedded_full
    """  # noqa: D301 - \b keeps the lines of the examples apart
    from tokenreduce.benchmark import Benchmark
    from tokenreduce.config import benchmark_settings, parse_benchmark
    from tokenreduce.lmms.export import export_task
    from tokenreduce.overrides import apply_overrides
    from tokenreduce.problems import Report

    report = Report()
    classes = class_names(ctx.obj.load())
    settings = apply_overrides(benchmark_settings(benchmark, classes), overrides or [])
    made = parse_benchmark(settings, classes, report)
    report.raise_if_any("the options of `export-lmms`")
    checked = cast("Benchmark", made)
    with progress_bar() as tell:
        samples = checked.samples(tell)
    task = name or f"tokenreduce_{checked.name}"
    for file in export_task(checked, samples, out, name=task, max_new_tokens=max_new_tokens):
        typer.echo(file)
    typer.echo(f"next: lmms-eval eval --model tokenreduce --include_path {out} --tasks {task}")
