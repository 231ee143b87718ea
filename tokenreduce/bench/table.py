"""The table of a bench, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tokenreduce.bench.result import Result

MEGABYTE = 1_000_000


def print_result(result: Result, console: Console) -> None:
    """Print what was measured."""
    from rich.text import Text

    console.print(Text(_title(result), "bold"))
    for table in (_speeds(result), _costs(result)):
        console.print(table)
        console.print()
    console.print(Text("\n".join(_notes(result)), "dim"))


def _title(result: Result) -> str:
    grid = "" if result.grid is None else f" ({' x '.join(map(str, result.grid))})"
    stopped = ", stopped before its end" if result.interrupted else ""
    return (
        f"{result.model}: {result.visual_tokens} visual tokens{grid}, {result.tokens} in all"
        f"{stopped}"
    )


def _speeds(result: Result) -> Table:
    table = _table("row", "Img-Mem", "TTFT ms", "median", "spread", "prefill ms", "speedup")
    for heading in ("x eager", "ideal", "efficiency", "paper"):
        table.add_column(heading, justify="right")
    for row in result.rows:
        if row.note:
            table.add_row(row.label, row.note)
            continue
        paper = None if row.paper is None else row.paper.get("ttft_speedup")
        table.add_row(
            row.label,
            _number(row.img_memory, ".3f"),
            *(_milliseconds(row.ttft, key) for key in ("minimum", "median", "spread")),
            _milliseconds(row.prefill, "minimum"),
            _number(row.speedup, ".2f"),
            _number(row.speedup_over_eager, ".2f"),
            _number(row.ideal_speedup, ".2f"),
            _number(row.efficiency, ".3f"),
            _number(paper, ".2f"),
        )
    return table


def _costs(result: Result) -> Table:
    table = _table(
        "row", "scoring ms", "plan ms", "apply ms", "share", "first token ms", "decode ms/token"
    )
    table.add_column("peak MB", justify="right")
    for row in result.rows:
        phases = row.phases or {}
        table.add_row(
            row.label,
            *(_number(phases.get(name), ".1f", 1000) for name in ("scoring", "plan", "apply")),
            _number(row.overhead, ".2%"),
            _milliseconds(row.first_token, "minimum"),
            _milliseconds(row.decode, "minimum", ".2f"),
            _number(row.peak_memory, ".1f", 1 / MEGABYTE),
        )
    return table


def _notes(result: Result) -> list[str]:
    lines = [
        "TTFT: from the encoded video to the first token. speedup: prefill of the first row over "
        "this row's, fastest runs. ideal: from FLOPs at the rates below. efficiency: speedup / "
        "ideal. scoring, plan, apply: from a prefill of their own, share: of that prefill.",
        " ".join(f"{name}={value}" for name, value in result.machine.items()),
    ]
    if result.rates is not None:
        matmul, attention = (value / 1e9 for value in result.rates.values())
        lines.append(f"matrix products {matmul:.0f} GFLOP/s, attention {attention:.0f} GFLOP/s")
    if result.vision is not None:
        lines.append(f"vision tower: {result.vision['minimum'] * 1000:.1f} ms")
    return lines


def _table(first: str, *headings: str) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(first, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _milliseconds(timing: Any, key: str, form: str = ".1f") -> str:
    return _number(None if timing is None else timing[key], form, 1000)


def _number(value: float | None, form: str, scale: float = 1) -> str:
    return "-" if value is None else format(value * scale, form)
