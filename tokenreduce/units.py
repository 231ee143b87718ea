"""Units of work: what one worker does at a time, about one video under one setup."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from tokenreduce.benchmark import Sample
from tokenreduce.cells import Cell, Setup
from tokenreduce.records import Record, SampleRecord

UnitKind = Literal["answers", "timing", "pictures", "calibration"]


@dataclass(frozen=True, slots=True)
class Unit:
    """Questions about one video (calibration: about several), and the cells to ask them in.

    Attributes
    ----------
    kind
        What to make of them.
    setup
        Model and benchmark of the cells; frames and length of the answer are those of each cell.
    samples
        The questions; those about one video follow one another.
    cells
        Key and cell, in the order of the table.
    done
        ``(key, sample id)`` pairs that are not to be made again.
    digests
        Digest of each question by its id, as in its records.
    repeats
        Timed rounds, of timing.
    before
        Of second turns: by the id of each question the one that is asked before it.
    """

    kind: UnitKind
    setup: Setup
    samples: tuple[Sample, ...]
    cells: tuple[tuple[str, Cell], ...]
    done: frozenset[tuple[str, str]] = frozenset()
    digests: Mapping[str, str] = field(default_factory=dict)
    repeats: int = 3
    before: Mapping[str, Sample] = field(default_factory=dict)

    def todo(self) -> list[tuple[str, Sample]]:
        """Return the key and question of every record that is missing."""
        return [
            (key, sample)
            for sample in self.samples
            for key, _ in self.cells
            if (key, sample.id) not in self.done
        ]

    def failed(self, key: str, sample: Sample, error: str) -> SampleRecord:
        """Return the record of a question that a cell has no answer to.

        Parameters
        ----------
        key
            Of the cell.
        sample
            The question.
        error
            Why there is none.
        """
        return SampleRecord(
            cell=key,
            sample=sample.id,
            digest=self.digests.get(sample.id, ""),
            category=sample.category,
            answer=sample.answer,
            error=error,
            video=f"{sample.video.parent.name}/{sample.video.name}",
            frames=dict(self.cells)[key].setup.frames or sample.frames,
        )


class Worker(Protocol):
    """Does units of work in one process; keeps the model of the last unit."""

    def run(self, unit: Unit) -> Iterator[Record]:
        """Yield each record as soon as it is made."""

    def ahead(self, unit: Unit | None) -> None:
        """Prepare for a unit that comes after those that were given and announced so far.

        May be called from another thread, while a unit runs. None: the one that was announced
        last will not come.
        """

    def close(self) -> None:
        """End what runs beside the units."""


MakeWorker = Callable[[], Worker]
"""Makes a worker in the process that it will live in; can be pickled."""
