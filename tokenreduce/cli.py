"""The command line: parses, calls, prints. The work is in :mod:`tokenreduce.runner`.

Imports are in the commands: `--help`, `list` and `plugins` answer at once, without torch.
"""

from __future__ import annotations

import json
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from tokenreduce.cli_ablate import ablate_command
from tokenreduce.cli_bench import bench_command
from tokenreduce.cli_export import export_command
from tokenreduce.cli_lmms import export_lmms_command
from tokenreduce.cli_new_plugin import new_plugin_command
from tokenreduce.cli_paper import paper_command
from tokenreduce.cli_report import report_command
from tokenreduce.cli_validate import validate_command
from tokenreduce.console import (
    INTERRUPTED,
    WORK_FAILED,
    Commands,
    Options,
    Overrides,
    class_names,
    prepare_libraries,
    progress_bar,
)
from tokenreduce.errors import ConfigError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from pydantic.fields import FieldInfo

    from tokenreduce.reducer import Reducer
    from tokenreduce.runner import ClipAnswer

app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from tokenreduce.plugins import own_version

        typer.echo(f"tokenreduce {own_version() or '(not installed)'}")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    block: Annotated[
        list[str] | None,
        typer.Option("-p", metavar="no:NAME", help="Do not load the plugin NAME; repeatable."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict-plugins", help="End with an error if a plugin is broken.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Put token reducers between the decoder layers of video-language models, and measure them.

    \b
    Examples:
      tokenreduce compare
      tokenreduce compare my.yaml --set reducers.vas.ratio=0.5
      tokenreduce run clip.mp4 -q "what color is the ring ?" --reducer vas --set ratio=0.3
      tokenreduce list reducers --settings

    Exit codes: 0 done, 1 the work ran and part of it failed, 2 the request was wrong,
    130 interrupted.
    """  # noqa: D301 - \b keeps the lines of the examples apart
    ctx.obj = Options(_blocked(block or []), strict)


def _blocked(values: list[str]) -> tuple[str, ...]:
    for value in values:
        if not value.startswith("no:") or value == "no:":
            raise typer.BadParameter(
                f"'{value}' must be no:NAME, as in -p no:my_plugin", param_hint="-p"
            )
    return tuple(value.removeprefix("no:") for value in values)


@app.command("compare")
def compare_reducers(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Argument(metavar="[CONFIG.yaml]", help="By default, what `config` prints."),
    ] = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the results; given again, it is resumed."),
    ] = None,
) -> None:
    """Run reducers over a benchmark and print one table; the last line is one JSON document.

    \b
    Examples:
      tokenreduce compare
      tokenreduce compare --set reducers.vas.ratio=0.5 --set frames=8
      tokenreduce compare my.yaml --set 'reducers.both=[{use: fastv}, {use: vas, ratio: 0.3}]'
    """  # noqa: D301
    from tokenreduce.config import parse_config, plugin_settings
    from tokenreduce.overrides import apply_overrides, read_yaml

    with resources.as_file(_shipped()) as shipped:
        data = apply_overrides(read_yaml(config or shipped), overrides or [])
    manager = ctx.obj.load(plugin_settings(data))
    source = f"'{config}'" if config else "the shipped configuration"
    checked = parse_config(data, class_names(manager), source)
    prepare_libraries(checked.settings.model)
    from rich.console import Console

    from tokenreduce.runner import compare

    with progress_bar() as tell:
        report = compare(checked, manager, tell, out=out)
    report.print(Console())
    typer.echo(report.to_json())
    if report.interrupted:
        raise KeyboardInterrupt
    if report.failed:
        raise typer.Exit(WORK_FAILED)


@app.command("run")
def run_clip(
    ctx: typer.Context,
    clip: Annotated[Path, typer.Argument(metavar="CLIP", help="A video file.")],
    question: Annotated[str, typer.Option("--question", "-q", help="What to ask about it.")],
    model: Annotated[
        str, typer.Option(metavar="DIR", help="Folder of a checkpoint, or 'embedded'.")
    ] = "embedded",
    model_options: Annotated[
        list[str] | None,
        typer.Option(
            "--model-option", metavar="NAME=VALUE", help="A choice of the model's family."
        ),
    ] = None,
    reducer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Answer again under this reducer.")
    ] = None,
    overrides: Overrides = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Frames to sample; by default as the model asks.")
    ] = None,
    sampling: Annotated[
        str | None,
        typer.Option(help="How to sample: uniform, linspace, segments, before_last, all or fps:X."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    positions: Annotated[
        str, typer.Option(help="Position ids after a reduction: keep, renumber or mean.")
    ] = "keep",
    seed: Annotated[int, typer.Option(min=0, help="Of the reducer's random choices.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 32,
    as_json: Annotated[bool, typer.Option("--json", help="End with one JSON document.")] = False,
) -> None:
    """Answer a question about a video file, with and without reduction.

    \b
    Examples:
      tokenreduce run clip.mp4 -q "which comes first the circle or the cross ?"
      tokenreduce run clip.mp4 -q "is there a ring ?" --reducer vas --set ratio=0.3
      tokenreduce run clip.mp4 -q "what happens?" --model my-checkpoint --dtype bfloat16 --json
    """  # noqa: D301
    from tokenreduce.config import CommonSettings, parse_reducer
    from tokenreduce.overrides import apply_overrides
    from tokenreduce.problems import Report, build

    report = Report()
    given = {"dtype": dtype, "device": device, "positions": positions}
    build(CommonSettings, given, (), report)
    report.raise_if_any("the options of `run`")
    manager = ctx.obj.load()
    values = apply_overrides({}, overrides or [])
    if values and reducer is None:
        raise ConfigError("--set changes a setting of a reducer: say which with --reducer NAME.")
    chosen = [parse_reducer(reducer, values, class_names(manager))] if reducer else []
    prepare_libraries(model)
    from tokenreduce.inference import load_model
    from tokenreduce.runner import answer_clip
    from tokenreduce.video import check_video, load_video

    # The file first: a wrong one is told before any weight is read.
    check_video(clip, frames or 1, sampling or "uniform")
    loaded = load_model(
        model,
        manager.registry.adapters,
        dtype=dtype,
        device=device,
        positions=positions,
        options=apply_overrides({}, model_options or []),
    )
    processor = loaded.checkpoint.processor
    video = load_video(clip, frames or processor.frames, sampling or processor.sampling)
    answer = answer_clip(
        loaded,
        video,
        question,
        cast("list[Reducer]", chosen),
        seed=seed,
        max_new_tokens=max_new_tokens,
    )
    _print_answer(answer, clip, reducer)
    if as_json:
        typer.echo(json.dumps(answer.document()))


def _print_answer(answer: ClipAnswer, clip: Path, reducer: str | None) -> None:
    if answer.video.bad_packets:
        typer.echo(f"tokenreduce: {clip}: {answer.video.bad_packets} bad packets", err=True)
    typer.echo(f"{answer.model} ({answer.adapter}) on {answer.frames} frames of {clip}")
    lines = {"answer": answer.answer_full, "TTFT": f"{answer.ttft_full_ms:.1f} ms"}
    if reducer is not None:
        lines = {
            f"answer under {reducer}": answer.answer,
            "answer without reduction": answer.answer_full,
            "TTFT": f"{answer.ttft_ms:.1f} ms, {answer.ttft_full_ms:.1f} ms without reduction",
            "Img-Memory": f"{answer.img_memory:.3f}",
            "visual tokens per layer": " ".join(map(str, answer.tokens_per_layer)),
        }
    width = max(map(len, lines))
    for name, value in lines.items():
        typer.echo(f"  {name:<{width}}  {value}")


@app.command("list")
def list_classes(
    ctx: typer.Context,
    kind: Annotated[str, typer.Argument(metavar="reducers|adapters|benchmarks")],
    settings: Annotated[
        bool, typer.Option("--settings", help="Show every setting with its default.")
    ] = False,
) -> None:
    """List the reducers, adapters or benchmarks that are installed."""
    from tokenreduce.registry import as_kind, summary

    checked = as_kind(kind)
    registry = ctx.obj.load().registry
    classes = registry.classes(checked)
    width = max(map(len, classes), default=0)
    for name, cls in classes.items():
        owner = registry.owner(checked, name)
        origin = "" if owner.distribution == "tokenreduce" else f"  [{owner.distribution}]"
        types = ", ".join(getattr(cls, "model_types", ()))
        claims = f"  [model_type: {types}]" if types else ""
        typer.echo(f"{name:<{width}}  {summary(cls)}{claims}{origin}")
        if settings:
            for field in getattr(cls, "model_fields", {}).items():
                typer.echo(f"    {_setting(*field)}")


def _setting(name: str, field: FieldInfo) -> str:
    value = "required" if field.is_required() else json.dumps(field.get_default(), default=str)
    return f"{name} ({value}): {field.description or 'not described'}"


@app.command("plugins")
def list_plugins(ctx: typer.Context) -> None:
    """Show which plugins were loaded, what they added, and what is wrong with the others."""
    for record in ctx.obj.load().records:
        owner = record.owner
        origin = f"{owner.distribution} {owner.version}".strip()
        typer.echo(
            f"{record.status:<8} {owner.plugin}  ({origin})  {', '.join(record.added)}".rstrip()
        )
        for line in record.details.splitlines():
            typer.echo(f"         {line}")


@app.command("config")
def show_config(
    ctx: typer.Context,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema instead, for editors.")
    ] = False,
    grid: Annotated[
        bool, typer.Option("--grid", help="Print the JSON schema of a grid of `ablate`.")
    ] = False,
) -> None:
    """Print the configuration that `compare` runs without a file, to copy and change.

    \b
    Examples:
      tokenreduce config > my.yaml
      tokenreduce config --schema > tokenreduce.schema.json
      tokenreduce config --grid > grid.schema.json
    """  # noqa: D301
    if not (schema or grid):
        typer.echo(_shipped().read_text(encoding="utf-8").rstrip())
        return
    from tokenreduce.ablations.schema import grid_schema
    from tokenreduce.config_schema import json_schema

    classes = class_names(ctx.obj.load())
    typer.echo(json.dumps(grid_schema(classes) if grid else json_schema(classes), indent=2))


app.command("ablate")(ablate_command)
app.command("bench")(bench_command)
app.command("export")(export_command)
app.command("export-lmms")(export_lmms_command)
app.command("new-plugin")(new_plugin_command)
app.command("paper")(paper_command)
app.command("report")(report_command)
app.command("validate")(validate_command)


def _shipped() -> Traversable:
    return resources.files("tokenreduce") / "data" / "compare.yaml"


def main() -> None:
    """Entry point of the `tokenreduce` command."""
    try:
        app(prog_name="tokenreduce")
    except KeyboardInterrupt:  # before or after a command had it in hand
        sys.exit(INTERRUPTED)
