"""The numbers of a table's rows, from their records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean, median
from typing import Any

from tokenreduce.cells import Cell
from tokenreduce.config import BASELINE
from tokenreduce.records import SampleRecord
from tokenreduce.report import Comparison, Row
from tokenreduce.report.row import Interval
from tokenreduce.results.answers import Answers, Question, question
from tokenreduce.results.comparison import adjusted, compared
from tokenreduce.statistics import bootstrap_median, clustered_wilson

MEGABYTE = 1_000_000
ROUNDING = 1e-9
"""A gap between a budget and what was reached that is floating point's."""


def build_rows(table: Sequence[Answers]) -> tuple[Row, ...]:
    """Sum up the rows of a table; the first one is the baseline."""
    if not table:
        return ()
    baseline = table[0]
    full = {question(record): record for record in baseline.answered}
    against = adjusted([compared(answers, baseline) for answers in table[1:]])
    return tuple(
        build_row(answers, full, comparison)
        for answers, comparison in zip(table, [None, *against], strict=True)
    )


def build_row(
    answers: Answers,
    full: Mapping[Question, SampleRecord],
    comparison: Comparison | None = None,
) -> Row:
    """Sum up one row.

    Parameters
    ----------
    answers
        Its records.
    full
        The unreduced prefill of each question, which down-sampled rows are shares of.
    comparison
        With the baseline.
    """
    cell, answered = answers.cells[0], answers.answered
    speedups = [timing.ttft_full / timing.ttft for timing in answers.timings]
    timed = [timing.sample for timing in answers.timings]
    peaks = [timing.peak_bytes for timing in answers.timings if timing.peak_bytes is not None]
    shares = [share for r in answered if (share := _shares(r, cell, full)) is not None]
    img_memory, flops, kv_bytes = (
        map(fmean, zip(*shares, strict=True)) if shares else (None, None, None)
    )
    samples = sum(map(len, answers.records))
    return Row(
        label=answers.label,
        reducer=cell.reducer or BASELINE,
        settings=settings(cell),
        accuracy=answers.accuracy(),
        accuracy_interval=_interval(answers),
        categories=answers.accuracy_by(lambda record: record.category),
        lengths=_by_length(answers),
        img_memory=img_memory,
        flops_ratio=flops,
        kv_ratio=kv_bytes,
        tokens_per_layer=_tokens_per_layer(answered),
        ttft_speedup=median(speedups) if speedups else None,
        ttft_interval=bootstrap_median(speedups, timed) if speedups else None,
        ttft_ms=median(t.ttft for t in answers.timings) * 1000 if speedups else None,
        peak_memory_mb=max(peaks) / MEGABYTE if peaks else None,
        samples=samples,
        failed=samples - len(answered),
        questions=answers.asked(),
        planned=answers.planned,
        seeds=tuple(cell.seed for cell in answers.cells),
        summary=cell.summary,
        budget=_budget(answers.cells),
        comparison=comparison,
    )


def settings(cell: Cell) -> Any:
    """Return a cell's settings: of one reducer without its name, of several as a list."""
    stages = [dict(stage) for stage in cell.reducers]
    if len(stages) > 1:
        return stages
    return {name: value for stage in stages for name, value in stage.items() if name != "use"}


def _interval(answers: Answers) -> Interval | None:
    if not answers.marks:
        return None
    values = [fmean(marks) for marks in answers.marks.values()]
    return clustered_wilson(values, [answers.videos[key] for key in answers.marks])


def _by_length(answers: Answers) -> dict[str, float]:
    found = answers.accuracy_by(lambda r: None if r.frames is None else str(r.frames))
    return {frames: found[frames] for frames in sorted(found, key=int)}


def _shares(
    record: SampleRecord, cell: Cell, full: Mapping[Question, SampleRecord]
) -> tuple[float, float, float] | None:
    """Return Img-Memory, FLOPs and KV bytes as shares of no reduction; None if they are unknown.

    A down-sampled prefill is a share of the one of the whole input.
    """
    whole = full.get(question(record)) if cell.downsampled else record
    if whole is None:
        return None
    tokens = len(record.tokens_per_layer) * (whole.visual_tokens or 0)
    counts = record.flops, whole.flops_full, record.kv_bytes, whole.kv_bytes_full
    flops, flops_full, kv_bytes, kv_bytes_full = counts
    if not (tokens and flops_full and kv_bytes_full) or flops is None or kv_bytes is None:
        return None
    return sum(record.tokens_per_layer) / tokens, flops / flops_full, kv_bytes / kv_bytes_full


def _tokens_per_layer(answered: Sequence[SampleRecord]) -> tuple[float, ...]:
    layers = zip(*(r.tokens_per_layer for r in answered if r.tokens_per_layer), strict=True)
    return tuple(map(fmean, layers))


def _budget(cells: Sequence[Cell]) -> dict[str, Any] | None:
    """Return the budget of a row; where seeds were solved apart, the mean that they reached."""
    budgets = [cell.budget for cell in cells if cell.budget is not None]
    reached = [budget.reached for budget in budgets if budget.reached is not None]
    if not reached:
        return asdict(budgets[0]) | {"within": None} if budgets else None
    target, tolerance = budgets[0].target, budgets[0].tolerance
    return asdict(budgets[0]) | {
        "reached": fmean(reached),
        "within": all(abs(share - target) <= tolerance + ROUNDING for share in reached),
        "note": next((budget.note for budget in budgets if budget.note), ""),
    }
