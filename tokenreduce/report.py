"""The result of a comparison: a table for people, and one JSON document with the same numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from tokenreduce.statistics import wilson_interval

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from tokenreduce.store import Cell, SampleRecord, Store

MEGABYTE = 1_000_000
_LEFT = 20  # characters, least width of a table's first column


@dataclass(frozen=True, slots=True)
class Row:
    """The numbers of one cell; its fields are the keys of the JSON document.

    Attributes
    ----------
    label, reducer, settings
        See :class:`tokenreduce.store.Cell`.
    accuracy
        Share of the answered samples that are right; None if none was answered.
    accuracy_interval
        Its 95 % Wilson interval. Passes with other seeds ask the same questions, so they do not
        make it narrower.
    categories
        Accuracy by category.
    img_memory, flops_ratio
        Mean over samples, shares of the unreduced prefill.
    ttft_speedup
        Median over the timed samples of baseline time / own time.
    ttft_ms
        Median over the timed samples, in milliseconds, from encoded video to first token.
    peak_memory_mb
        Peak memory of one prefill in 10^6 bytes.
    samples, failed
        How many were tried (in each pass, if there are several seeds), and how many of them gave
        no answer.
    """

    label: str
    reducer: str
    settings: Any
    accuracy: float | None
    accuracy_interval: tuple[float, float] | None
    categories: dict[str, float]
    img_memory: float | None
    flops_ratio: float | None
    ttft_speedup: float | None
    ttft_ms: float | None
    peak_memory_mb: float | None
    samples: int
    failed: int


@dataclass(frozen=True, slots=True)
class Report:
    """A comparison's rows, the baseline first.

    Attributes
    ----------
    model, benchmark
        Names.
    rows
        One per cell.
    summaries
        For each row, its settings as they were written.
    errors
        The first few different reasons of failed samples, as ``label: reason``.
    interrupted
        Whether the comparison was stopped before its end.
    """

    model: str
    benchmark: str
    rows: tuple[Row, ...]
    summaries: tuple[str, ...]
    errors: tuple[str, ...] = ()
    interrupted: bool = False

    @property
    def failed(self) -> int:
        """Samples that failed, over all rows."""
        return sum(row.failed for row in self.rows)

    def document(self) -> dict[str, Any]:
        """Return the machine-readable document, in JSON types."""
        rows = [asdict(row) for row in self.rows]
        return {"model": self.model, "benchmark": self.benchmark, "rows": rows}

    def to_json(self) -> str:
        """Return the document on one line."""
        return json.dumps(self.document(), allow_nan=False)

    def print(self, console: Console) -> None:
        """Print the tables, fitted to the console's width."""
        for part in self.tables(console.width):
            console.print(part)
            console.print()

    def tables(self, width: int) -> list[RenderableType]:
        """Return what :meth:`print` prints, for a console ``width`` characters wide."""
        from rich.text import Text

        counts = {row.samples for row in self.rows}
        samples = "-".join(str(n) for n in sorted({min(counts), max(counts)})) if counts else "0"
        stopped = ", stopped before its end" if self.interrupted else ""
        title = Text(f"{self.model} on {self.benchmark}, {samples} questions{stopped}", "bold")
        notes = [
            "accuracy: with its 95 % Wilson interval. Img-Mem: visual tokens in the KV cache, "
            "FLOPs: of the prefill, both as shares of no reduction. TTFT: from encoded video to "
            "first token, speedup over the first row. peak: tensors of one prefill.",
            *self.errors,
        ]
        body = [self._main_table(), *self._category_tables(width)]
        return [title, *body, Text("\n".join(notes), "dim")]

    def _main_table(self) -> RenderableType:
        from rich.text import Text

        table = _table("reducer and settings")
        for heading in ("accuracy", "Img-Mem", "FLOPs", "TTFT", "ms", "peak MB"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row, summary in zip(self.rows, self.summaries, strict=True):
            name = Text(row.label, "bold")
            if summary:
                name.append(f"\n{summary}", "not bold dim")
            if row.failed:
                name.append(f"\n{row.failed} of {row.samples} failed", "red")
            table.add_row(
                name,
                _with_interval(row),
                _number(row.img_memory, ".3f"),
                _number(row.flops_ratio, ".3f"),
                _number(row.ttft_speedup, ".2f", "x"),
                _number(row.ttft_ms, ".1f"),
                _number(row.peak_memory_mb, ".1f"),
            )
        return table

    def _category_tables(self, width: int) -> list[RenderableType]:
        """Accuracy by category, cut into as many tables as the width needs."""
        from rich.text import Text

        names = list(dict.fromkeys(name for row in self.rows for name in row.categories))
        if len(names) < 2:
            return []
        left = max(_LEFT, *(len(row.label) for row in self.rows)) + 2
        tables: list[RenderableType] = []
        for part in _fit(names, width - left):
            table = _table("accuracy in")
            for name in part:
                table.add_column(Text(name), justify="right", no_wrap=True)
            for row in self.rows:
                table.add_row(
                    Text(row.label), *(_number(row.categories.get(n), ".2f") for n in part)
                )
            tables.append(table)
        return tables


def build_report(store: Store, *, interrupted: bool = False) -> Report:
    """Read a report from the results of a comparison, finished or not."""
    cells = store.cells()
    records = [store.records(cell.label) for cell in cells]
    reasons = dict.fromkeys(
        f"{record.label}: {record.error}"
        for group in records
        for record in group
        if record.error is not None
    )
    return Report(
        model=store.model,
        benchmark=store.benchmark,
        rows=tuple(build_row(cell, group) for cell, group in zip(cells, records, strict=True)),
        summaries=tuple(cell.summary for cell in cells),
        errors=tuple(reasons)[:5],
        interrupted=interrupted,
    )


def build_row(cell: Cell, records: Sequence[SampleRecord]) -> Row:
    """Sum up what one cell made of its samples."""
    answered = [record for record in records if record.error is None]
    right = sum(bool(record.correct) for record in answered)
    by_category: dict[str, list[bool]] = {}
    for record in answered:
        by_category.setdefault(record.category, []).append(bool(record.correct))
    times = [r.ttft_ms for r in answered if r.ttft_ms is not None]
    speedups = [
        record.ttft_full_ms / record.ttft_ms
        for record in answered
        if record.ttft_ms and record.ttft_full_ms is not None
    ]
    peaks = [r.peak_memory_bytes for r in answered if r.peak_memory_bytes is not None]
    return Row(
        label=cell.label,
        reducer=cell.reducer,
        settings=cell.settings,
        accuracy=right / len(answered) if answered else None,
        accuracy_interval=_interval(answered),
        categories={name: fmean(marks) for name, marks in by_category.items()},
        img_memory=_mean([record.img_memory for record in answered]),
        flops_ratio=_mean([record.flops_ratio for record in answered]),
        ttft_speedup=median(speedups) if speedups else None,
        ttft_ms=median(times) if times else None,
        peak_memory_mb=max(peaks) / MEGABYTE if peaks else None,
        samples=len(records),
        failed=len(records) - len(answered),
    )


def _interval(answered: Sequence[SampleRecord]) -> tuple[float, float] | None:
    questions = len({record.sample for record in answered})
    if not questions:
        return None
    right = sum(bool(record.correct) for record in answered)
    return wilson_interval(round(questions * right / len(answered)), questions)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _table(heading: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column(heading, overflow="fold", min_width=_LEFT)
    return table


def _fit(names: Sequence[str], width: int) -> list[list[str]]:
    """Cut names into runs of columns that fit the width; a run holds at least one."""
    runs: list[list[str]] = [[]]
    used = 0
    for name in names:
        needed = max(len(name), 4) + 2
        if runs[-1] and used + needed > width:
            runs.append([])
            used = 0
        runs[-1].append(name)
        used += needed
    return runs


def _with_interval(row: Row) -> str:
    if row.accuracy is None or row.accuracy_interval is None:
        return "-"
    low, high = row.accuracy_interval
    return f"{row.accuracy:.3f} ({low:.2f}-{high:.2f})"


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"
