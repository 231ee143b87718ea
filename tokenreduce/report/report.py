"""One table of results: printed for people, and as one JSON document with the same numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from tokenreduce.report.row import Row

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult


@dataclass(frozen=True, slots=True)
class Report:
    """The rows of one setup, and of one budget if there is one; rich prints it as tables.

    Attributes
    ----------
    model, benchmark
        Names.
    rows
        The baseline first.
    errors
        The first few different reasons of failed samples, as ``label: reason``.
    interrupted
        Whether the work was stopped before its end.
    setup
        What the rows have in common, in JSON types; see :class:`tokenreduce.cells.Setup`.
    budget
        What the rows' settings were solved for: ``measure``, ``target`` and ``tolerance``.
    details
        The settings in which this table differs from the others of its results, for people.
    """

    model: str
    benchmark: str
    rows: tuple[Row, ...]
    errors: tuple[str, ...] = ()
    interrupted: bool = False
    setup: Mapping[str, Any] = field(default_factory=dict)
    budget: Mapping[str, Any] | None = None
    details: str = ""

    @property
    def failed(self) -> int:
        """Samples that failed, over all rows."""
        return sum(row.failed for row in self.rows)

    @property
    def finished(self) -> bool:
        """Whether every question was asked in every row."""
        return not self.interrupted and all(row.finished for row in self.rows)

    def document(self) -> dict[str, Any]:
        """Return the machine-readable document, in JSON types."""
        return {
            "model": self.model,
            "benchmark": self.benchmark,
            "rows": [asdict(row) for row in self.rows],
            "setup": dict(self.setup),
            "budget": None if self.budget is None else dict(self.budget),
            "finished": self.finished,
        }

    def to_json(self) -> str:
        """Return the document on one line."""
        return json.dumps(self.document(), allow_nan=False)

    def print(self, console: Console) -> None:
        """Print the tables, fitted to the console's width."""
        console.print(self)

    def tables(self, width: int) -> list[RenderableType]:
        """Return what :meth:`print` prints, for a console ``width`` characters wide."""
        from tokenreduce.report.tables import parts

        return parts(self, width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for part in self.tables(options.max_width):
            yield part
            yield ""
