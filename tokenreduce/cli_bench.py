"""`tokenreduce bench`: reads the request, runs it, prints the table and one line of JSON."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer

from tokenreduce.console import class_names, prepare_libraries, progress_bar
from tokenreduce.errors import ConfigError


def bench_command(
    ctx: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="[MODEL]", help="A named shape, or the folder of a checkpoint.")
    ] = "llama-7b-tiny",
    reducers: Annotated[
        list[str] | None,
        typer.Option("--reducer", metavar="NAME", help="By default the paper's; may be repeated."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change one setting; may be repeated."),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Frames; by default the shape's, or 16.")
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(metavar="ROWSxCOLUMNS", help="Tokens of a frame; by default the shape's."),
    ] = None,
    text: Annotated[
        int, typer.Option(min=1, help="Text tokens, a quarter of them before the video.")
    ] = 64,
    repeats: Annotated[
        int, typer.Option(min=0, help="Timed rounds; 0: only memory and phases.")
    ] = 5,
    warmup: Annotated[int, typer.Option(min=0, help="Rounds before them.")] = 1,
    decode: Annotated[int, typer.Option(min=1, help="Tokens after the first.")] = 16,
    pattern: Annotated[
        str | None,
        typer.Option(
            "--attention-pattern",
            metavar="PATTERN",
            help="What attention reducers see: the model's, published (nothing shrinks) or falling "
            "(all shrinks); by default published for a named shape.",
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART",
            help="Leave out eager, decode, memory, phases or vision; may be repeated.",
        ),
    ] = None,
    attention: Annotated[
        str, typer.Option(metavar="NAME", help="Attention implementation of the model.")
    ] = "sdpa",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    profile: Annotated[
        Path | None,
        typer.Option(metavar="FILE.svg", help="Draw where the time of each prefill goes."),
    ] = None,
) -> None:
    """Time reducers on a named shape with random weights, or on a checkpoint.

    The table has time to first token, decode, memory, and how much of the ideal speedup is reached;
    the last line is one JSON document.

    \b
    Examples:
      tokenreduce bench llama-7b-tiny
      tokenreduce bench llama3-8b-tiny --reducer vas --set reducers.vas.ratio=0.5 --repeats 3
      tokenreduce bench my-checkpoint --frames 8 --reducer fastv --attention-pattern model
    """  # noqa: D301
    from tokenreduce.bench.request import parse_request
    from tokenreduce.overrides import read_yaml

    manager = ctx.obj.load()
    with resources.as_file(resources.files("tokenreduce") / "data" / "compare.yaml") as shipped:
        known = read_yaml(shipped)["reducers"]
    options: dict[str, Any] = {
        "model": model,
        "frames": frames,
        "grid": grid,
        "text": text,
        "repeats": repeats,
        "warmup": warmup,
        "decode": decode,
        "pattern": pattern,
        "without": without or [],
        "attention": attention,
        "dtype": dtype,
        "device": device,
    }
    if profile is not None and (not profile.parent.is_dir() or "phases" in options["without"]):
        raise ConfigError(
            f"--profile {profile}: it needs a folder that exists, and phases that are measured."
        )
    request = parse_request(options, reducers or [], overrides or [], known, class_names(manager))
    prepare_libraries(model)
    from rich.console import Console

    from tokenreduce.bench.runner import run_bench
    from tokenreduce.bench.table import print_result
    from tokenreduce.bench.waterfall import waterfall

    with progress_bar() as tell:
        result = run_bench(request, manager, tell)
    print_result(result, Console())
    if profile is not None:
        profile.write_text(waterfall(result), encoding="utf-8")
    typer.echo(result.to_json())
    if result.interrupted:
        raise KeyboardInterrupt
