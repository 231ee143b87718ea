"""`tokenreduce validate`: checks a file of questions and its videos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tokenreduce.jsonl.validation import Summary


def validate_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The questions, one a line.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change one setting; may be repeated."),
    ] = None,
) -> None:
    """Check the questions of a local benchmark and open its videos; no model is loaded.

    Every fault is listed with its line, and ends the command with exit code 2.

    \b
    Examples:
      tokenreduce validate my-questions.jsonl
      tokenreduce validate my-questions.jsonl --set match=number --set allow_outside=true
    """  # noqa: D301 - \b keeps the lines of the examples apart
    from tokenreduce.console import progress_bar
    from tokenreduce.jsonl.benchmark import JsonlBenchmark
    from tokenreduce.jsonl.validation import validate
    from tokenreduce.overrides import apply_overrides
    from tokenreduce.problems import Report, build

    report = Report()
    settings = {"file": file, **apply_overrides({}, overrides or [])}
    benchmark = build(JsonlBenchmark, settings, (), report)
    report.raise_if_any("the settings of the benchmark 'jsonl'")
    assert benchmark is not None
    with progress_bar("reading the questions") as tell:
        summary = validate(benchmark, tell)
    _print(summary, benchmark.file)


def _print(summary: Summary, file: Path) -> None:
    for note in summary.notes:
        typer.echo(f"tokenreduce: {note}", err=True)
    typer.echo(
        f"{file}: {_count(summary.questions, 'question')}, {summary.choices} of them with options, "
        f"about {_count(summary.videos, 'video')} of {summary.seconds:.1f} s in all"
    )
    width = max(map(len, summary.categories))
    for category, count in summary.categories.items():
        typer.echo(f"  {category:<{width}}  {count}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
