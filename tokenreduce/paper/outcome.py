"""What a recipe came to: our numbers beside the paper's, printed and as one document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from tokenreduce.config import BASELINE, EMBEDDED_MODEL
from tokenreduce.paper.availability import Ours, missing
from tokenreduce.paper.comparison import (
    Line,
    Numbers,
    column_of,
    compared,
    described,
    failed_rows,
    paper_benchmark,
)
from tokenreduce.paper.recipes import Recipe

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tokenreduce.ablations.dry_run import DryRun
    from tokenreduce.report import Row

NO_ERROR_BARS = "The paper gives no intervals: a difference to it may be chance."


@dataclass(frozen=True, slots=True)
class Outcome:
    """Our numbers beside the paper's.

    Attributes
    ----------
    recipe
        What was run.
    ours
        What our numbers are made of.
    lines
        Row by row; empty where the paper has no table.
    computed
        Whether our numbers are arithmetic of the schedule (a dry run), not measured.
    """

    recipe: Recipe
    ours: Ours
    lines: tuple[Line, ...]
    computed: bool = False

    @property
    def comparable(self) -> bool:
        """Whether model and benchmark are the paper's."""
        return self.ours.known in self.recipe.published and self.ours.asked is not None

    @property
    def column(self) -> str:
        """The paper's column of accuracy that ours stands beside."""
        return column_of(self.recipe, self.ours.asked)

    def document(self) -> dict[str, Any]:
        """Return the machine-readable document, in JSON types."""
        return {
            "recipe": self.recipe.name,
            "table": self.recipe.table,
            "ours": asdict(self.ours),
            "comparable": self.comparable,
            "computed": self.computed,
            "column": self.column or None,
            "rows": [line.document() for line in self.lines],
            "scores": {
                model: {
                    row.name: {name: asdict(score) for name, score in row.scores.items()}
                    for row in rows
                }
                for model, rows in self.recipe.published.items()
            },
            "missing": missing(self.recipe, self.ours),
        }

    def print(self, console: Console) -> None:
        """Print a table for each of the paper's models, and what is to be said about them."""
        for model, lines in groupby(self.lines, key=lambda line: line.model):
            for table in self._tables(model, list(lines)):
                console.print(table)
        for sentence in self.sentences():
            console.print(sentence, markup=False, highlight=False)

    def sentences(self) -> list[str]:
        """Return what is to be said, a paragraph each."""
        made = "computed from the schedule" if self.computed else "measured"
        said = [f"ours: {made} with {self.ours.model} on {self.ours.benchmark}."]
        if self.ours.known is not None:
            said.append(f"{self.ours.model} is taken for {self.ours.known}, by family and depth.")
        if self.recipe.figure is not None:
            return [*said, "The paper draws this for PLLaVA-7B on MVBench, and gives no numbers."]
        if self.recipe.table is None:
            return [*said, "The paper has no such numbers; its reviewers asked for them."]
        if self.ours.model == EMBEDDED_MODEL:
            said.append(
                "The embedded model is tiny and its clips are synthetic: its accuracy and times "
                "are not comparable with the paper's, and say nothing about models of 7B."
            )
        elif not self.comparable:
            said.append("Model or benchmark is not the paper's: accuracy is not comparable.")
        said += [NO_ERROR_BARS, *failed_rows(self.recipe)]
        lacking = missing(self.recipe, self.ours)
        if lacking:
            said += [
                "Of the paper's numbers these were not had:",
                *(f"- {each}" for each in lacking),
            ]
        return said

    def _tables(self, model: str, lines: Sequence[Line]) -> list[Table]:
        title = f"{self.recipe.name}: ours beside the paper's {model}"
        if self.computed:
            return [_table(f"{title}, Img-Memory", lines, _MEMORY)]
        accuracy = {**_ACCURACY, **(_DIFFERENCE if self.comparable else {}), **_CHANGE}
        return [
            _table(f"{title}, accuracy ({described(self.column)})", lines, accuracy),
            _table(f"{title}, what it costs", lines, {**_MEMORY, **_TIMES}),
        ]


def from_results(recipe: Recipe, ours: Ours, rows: Sequence[Row]) -> Outcome:
    """Return the outcome of a run.

    Parameters
    ----------
    recipe, ours
        What was run, and on what.
    rows
        Of its table, the unreduced one first.
    """
    base = rows[0].accuracy if rows else None
    numbers = {
        row.label: Numbers(
            row.accuracy,
            None if row.accuracy is None or base is None else row.accuracy - base,
            row.img_memory,
            row.ttft_speedup,
        )
        for row in rows
    }
    return _outcome(recipe, ours, numbers)


def from_dry_run(recipe: Recipe, ours: Ours, cost: DryRun) -> Outcome:
    """Return what is known before anything is run: Img-Memory, where it is arithmetic."""
    numbers = {cell.label: Numbers(img_memory=cell.img_memory) for cell in cost.setups[0].cells}
    return _outcome(recipe, ours, numbers, computed=True)


def ours_of(setup: Mapping[str, Any], known: str | None, device: str, *, timed: bool) -> Ours:
    """Return what numbers of a setup are made of.

    Parameters
    ----------
    setup
        See :class:`tokenreduce.cells.Setup`.
    known
        Which of the paper's models it is.
    device
        Where the model runs.
    timed
        Whether times are taken.
    """
    benchmark = dict(setup["benchmark"])
    asked = paper_benchmark(benchmark)
    name = str(benchmark.get("task") or benchmark.get("file") or benchmark["use"])
    split = f", split {benchmark['split']}" if "split" in benchmark else ""
    return Ours(setup["model"], f"{name}{split}", known, asked, device, timed)


def _outcome(
    recipe: Recipe, ours: Ours, numbers: Mapping[str, Numbers], *, computed: bool = False
) -> Outcome:
    lines = compared(recipe, ours.known, column_of(recipe, ours.asked), numbers)
    return Outcome(recipe, ours, tuple(lines), computed)


# A heading to the side, the number and the sign that stand under it; spaces tell headings apart.
_ACCURACY = {"ours": ("ours", "accuracy", ""), "paper": ("paper", "accuracy", "")}
_DIFFERENCE = {"difference": ("difference", "accuracy", "+")}
_CHANGE = {
    f"against {BASELINE}: ours": ("ours", "change", "+"),
    "paper ": ("paper", "change", "+"),
}
_MEMORY = {
    "Img-Mem: ours": ("ours", "img_memory", ""),
    "paper": ("paper", "img_memory", ""),
    "difference": ("difference", "img_memory", "+"),
}
_TIMES = {
    "TTFT x: ours": ("ours", "ttft_speedup", ""),
    "paper ": ("paper", "ttft_speedup", ""),
    "difference ": ("difference", "ttft_speedup", "+"),
}


def _table(title: str, lines: Sequence[Line], shown: Mapping[str, tuple[str, str, str]]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left")
    table.add_column("row")
    for heading in shown:
        table.add_column(escape(heading.strip()), justify="right")
    for line in lines:
        cells = [_cell(line, *which) for which in shown.values()]
        table.add_row(escape(line.label), *cells)
    return table


def _cell(line: Line, side: str, name: str, sign: str) -> str:
    if side == "paper" and name == "accuracy" and line.failed:
        return "failed"
    value = line.document()[side][name]
    return "-" if value is None else f"{value:{sign}.3f}"
