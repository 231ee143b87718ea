"""What the cells of one row made of the questions, its seeds taken together."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from tokenreduce.cells import Cell
from tokenreduce.records import SampleRecord, TimingRecord

Question = tuple[str, str]
"""Id and digest: another digest under the same id is another question."""


def question(record: SampleRecord) -> Question:
    """Return which question a record is about."""
    return record.sample, record.digest


def cluster(record: SampleRecord) -> Hashable:
    """Return the video of a record; a question that does not name one has it to itself."""
    return record.video or question(record)


@dataclass(frozen=True)
class Answers:
    """The records of one row.

    Attributes
    ----------
    cells
        One for each seed.
    records
        For each cell its records.
    timings
        Of all cells.
    planned
        How many questions it is to be asked; None if that is unknown.
    """

    cells: tuple[Cell, ...]
    records: tuple[tuple[SampleRecord, ...], ...]
    timings: tuple[TimingRecord, ...] = ()
    planned: int | None = None

    @property
    def label(self) -> str:
        """Name of the row."""
        return self.cells[0].label

    @cached_property
    def answered(self) -> list[SampleRecord]:
        """All records with an answer, one seed after the other."""
        return [record for group in self.records for record in group if record.error is None]

    @cached_property
    def marks(self) -> dict[Question, list[bool]]:
        """For each answered question whether it was right, once for each seed that answered."""
        marks: dict[Question, list[bool]] = {}
        for record in self.answered:
            marks.setdefault(question(record), []).append(bool(record.correct))
        return marks

    @cached_property
    def videos(self) -> dict[Question, Hashable]:
        """The video of each answered question."""
        return {question(record): cluster(record) for record in self.answered}

    @cached_property
    def complete(self) -> dict[Question, float]:
        """For each question that every seed answered the share of the seeds that were right."""
        seeds = len(self.cells)
        return {key: fmean(marks) for key, marks in self.marks.items() if len(marks) == seeds}

    def asked(self) -> int:
        """Return how many questions every seed was asked, whether or not it answered."""
        each = [{question(record) for record in group} for group in self.records]
        return len(set.intersection(*each)) if each else 0

    def accuracy(self) -> float | None:
        """Return the mean over answered questions of the share of seeds that were right."""
        return fmean(map(fmean, self.marks.values())) if self.marks else None

    def accuracy_by(self, name: Callable[[SampleRecord], str | None]) -> dict[str, float]:
        """Return accuracy by group.

        Parameters
        ----------
        name
            Returns the group of a record; None: it has none.
        """
        groups: dict[str, dict[Question, float]] = {}
        for record in self.answered:
            group, key = name(record), question(record)
            if group is not None:
                groups.setdefault(group, {})[key] = fmean(self.marks[key])
        return {group: fmean(shares.values()) for group, shares in groups.items()}
