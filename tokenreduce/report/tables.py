"""A report as tables in a terminal, cut into as many as its width needs.

Nothing is marked as best: a row is only called better or worse than the baseline where that was
shown (:class:`tokenreduce.report.Comparison`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenreduce.report.row import Interval, Row

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from tokenreduce.report.report import Report

_LEFT, _LEFT_MOST = 20, 34  # characters, bounds on what the first column asks for
_COLOURS = {"better": "green", "worse": "red", "no difference shown": "dim"}
_MEASURES = {"img_memory": "Img-Memory", "flops": "FLOPs", "kv_bytes": "KV bytes"}
_NOTES = (
    "accuracy: right of the answered questions, with its 95 % Wilson interval, widened for "
    "questions that share a video.",
    "against {baseline}: difference of accuracy over the questions that both rows answered, with "
    "its 95 % bootstrap interval over videos; p: the larger one of McNemar's exact test and of a "
    "t-test over videos, Holm-corrected over the table. better, worse: p is at most 0.05 and the "
    "interval does not hold 0.",
    "Img-Mem: visual tokens in the KV cache, averaged over the layers. FLOPs: of the prefill, a "
    "multiply-add is 2 and causal attention counts half. KV: bytes of keys and values after the "
    "prefill, text included. Each is a mean over questions, as a share of no reduction of the "
    "whole input.",
    "TTFT: from encoded video to first token; speedup over no reduction in the same rounds, "
    "median with its 95 % bootstrap interval over questions. ms: median. peak: largest, of the "
    "tensors of one prefill.",
    "kept at each layer: visual tokens in its cache, mean over questions; layers in brackets.",
)
_SOLVED = (
    "reached: {measure} on the questions that were held out to solve the settings on; missed: it "
    "is farther from the target than the tolerance."
)


@dataclass(frozen=True, slots=True)
class _Column:
    heading: str
    cells: Sequence[Text]

    @property
    def width(self) -> int:
        """Characters of its longest line."""
        lines = [line for cell in self.cells for line in cell.plain.splitlines()]
        return max(map(len, [self.heading, *lines]))


def parts(report: Report, width: int) -> list[RenderableType]:
    """Return title, tables and notes for a console ``width`` characters wide."""
    from rich.text import Text

    if not report.rows:
        return [Text(_title(report), "bold")]
    names = [_name(row) for row in report.rows]
    labels = [Text(row.label) for row in report.rows]
    left = max(_LEFT, min(_LEFT_MOST, max(len(row.label) for row in report.rows)))
    body = [
        *_cut("reducer and settings", names, labels, _numbers(report), width - left),
        *_kept(report.rows, labels),
        *_shares("accuracy in", [row.categories for row in report.rows], labels, width - left),
        *_shares("accuracy at frames", [row.lengths for row in report.rows], labels, width - left),
    ]
    notes = [note.format(baseline=report.rows[0].label) for note in _NOTES]
    if report.budget:
        notes.append(_SOLVED.format(measure=_MEASURES[report.budget["measure"]]))
    return [Text(_title(report), "bold"), *body, Text("\n".join([*notes, *report.errors]), "dim")]


def _title(report: Report) -> str:
    planned = [row.questions if row.planned is None else row.planned for row in report.rows]
    about = [f"{report.model} on {report.benchmark}", _only_category(report), report.details]
    about.append(f"{max(planned, default=0)} questions")
    if report.budget:
        measure, target = _MEASURES[report.budget["measure"]], report.budget["target"]
        about.append(f"at {target:.3g} {measure} (within {report.budget['tolerance']:.3g})")
    if not report.finished:
        about.append("stopped before its end")
    return ", ".join(filter(None, about))


def _only_category(report: Report) -> str:
    """Return the category of all questions, which may name a task or a rule; empty if several."""
    names = {name for row in report.rows for name in row.categories}
    return "".join(names) if len(names) == 1 and names != {"all"} else ""


def _name(row: Row) -> Text:
    """Return a row's label, and below it what the reader must know about it."""
    from rich.text import Text

    name = Text(row.label, "bold")
    if row.summary and row.summary not in row.label:
        name.append(f"\n{row.summary}", "not bold dim")
    if len(row.seeds) > 1:
        name.append(f"\n{len(row.seeds)} seeds", "not bold dim")
    if not row.finished:
        name.append(f"\n{row.questions} of {row.planned} questions", "not bold yellow")
    if row.failed:
        name.append(f"\n{row.failed} of {row.samples} failed", "not bold red")
    if row.budget and row.budget["note"]:
        name.append(f"\n{row.budget['note']}", "not bold")
    return name


def _numbers(report: Report) -> list[list[_Column]]:
    """Return the columns of numbers, in groups that should not be torn apart."""

    def column(heading: str, cell: Callable[[Row], str]) -> _Column:
        return _Column(heading, [_plain(cell(row)) for row in report.rows])

    rows = report.rows
    right = [column("accuracy", _accuracy)]
    if any(row.comparison for row in rows):
        right.append(_Column(f"against {rows[0].label}", [_difference(row) for row in rows]))
        right.append(column("p", _p_value))
    cost = [
        column("Img-Mem", lambda row: _number(row.img_memory, ".3f")),
        column("FLOPs", lambda row: _number(row.flops_ratio, ".3f")),
        column("KV", lambda row: _number(row.kv_ratio, ".3f")),
    ]
    if report.budget:
        cost.append(column("reached", _reached))
    time = [
        column("TTFT", _speedup),
        column("ms", lambda row: _number(row.ttft_ms, ".1f")),
        column("peak MB", lambda row: _number(row.peak_memory_mb, ".1f")),
    ]
    return [right, cost, time]


def _cut(
    heading: str,
    names: Sequence[Text],
    labels: Sequence[Text],
    groups: Sequence[Sequence[_Column]],
    width: int,
) -> list[RenderableType]:
    """Lay columns out in as many tables as the width needs; what is below a label comes once."""
    tables: list[RenderableType] = []
    for run in _fit(groups, width):
        table = _table(heading)
        for column in run:
            table.add_column(_plain(column.heading), justify="right", no_wrap=True)
        left = labels if tables else names
        for number, name in enumerate(left):
            table.add_row(name, *(column.cells[number] for column in run))
        tables.append(table)
    return tables


def _kept(rows: Sequence[Row], labels: Sequence[Text]) -> list[RenderableType]:
    if not any(row.tokens_per_layer for row in rows):
        return []
    table = _table("kept at each layer")
    table.add_column("tokens (layers)", overflow="fold")
    for label, row in zip(labels, rows, strict=True):
        table.add_row(label, _plain(_runs(row.tokens_per_layer)))
    return [table]


def _runs(tokens: Sequence[float]) -> str:
    """Return equal neighbours once, as ``64 (0-3), 19.2 (4-13)``."""
    if not tokens:  # every question failed
        return "-"
    texts = [f"{count:.1f}".removesuffix(".0") for count in tokens]
    starts = [n for n, text in enumerate(texts) if n == 0 or text != texts[n - 1]]
    ends = [*(start - 1 for start in starts[1:]), len(texts) - 1]
    spans = [
        f"{texts[start]} ({start})" if start == end else f"{texts[start]} ({start}-{end})"
        for start, end in zip(starts, ends, strict=True)
    ]
    return ", ".join(spans)


def _shares(
    heading: str, rows: Sequence[Mapping[str, float]], labels: Sequence[Text], width: int
) -> list[RenderableType]:
    """Lay out accuracy by group, if there are several."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    if len(names) < 2:
        return []
    groups = [
        [_Column(name, [_plain(_number(row.get(name), ".2f")) for row in rows])] for name in names
    ]
    return _cut(heading, labels, labels, groups, width)


def _fit(groups: Sequence[Sequence[_Column]], width: int) -> list[list[_Column]]:
    """Cut columns into runs that fit the width, between groups if they do; a run holds one."""
    runs: list[list[_Column]] = [[]]
    for group in groups:
        if _width([*runs[-1], *group]) > width:
            runs.append([])
        for column in group:
            if _width([*runs[-1], column]) > width:
                runs.append([])
            runs[-1].append(column)
    return [run for run in runs if run]


def _width(columns: Sequence[_Column]) -> int:
    return sum(column.width + 2 for column in columns)


def _table(heading: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column(heading, overflow="fold", min_width=_LEFT)
    return table


def _plain(words: str) -> Text:
    """Return text in which nothing is markup."""
    from rich.text import Text

    return Text(words)


def _accuracy(row: Row) -> str:
    if row.accuracy is None or row.accuracy_interval is None:
        return "-"
    return f"{row.accuracy:.3f} {_between(row.accuracy_interval, '.2f')}"


def _difference(row: Row) -> Text:
    from rich.text import Text

    found = row.comparison
    if found is None or found.difference is None:
        return Text("-")
    text = Text(f"{found.difference:+.3f}")
    if found.interval is not None:
        text.append(f" ({found.interval[0]:+.3f}, {found.interval[1]:+.3f})")
    text.append(f"\n{found.verdict}", _COLOURS[found.verdict])
    return text


def _p_value(row: Row) -> str:
    found = row.comparison
    if found is None or found.difference is None:
        return "-"
    return "<0.001" if found.p < 0.001 else f"{found.p:.3f}"


def _reached(row: Row) -> str:
    if row.budget is None:
        return "-"
    missed = "\nmissed" if row.budget["within"] is False else ""
    return f"{_number(row.budget['reached'], '.3f')}{missed}"


def _speedup(row: Row) -> str:
    if row.ttft_speedup is None:
        return "-"
    interval = "" if row.ttft_interval is None else f" {_between(row.ttft_interval, '.2f')}"
    return f"{row.ttft_speedup:.2f}x{interval}"


def _between(interval: Interval, form: str) -> str:
    return f"({interval[0]:{form}}-{interval[1]:{form}})"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
