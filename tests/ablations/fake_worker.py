"""A grid without models, and workers that answer it, slowly or dying, as they are told."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tokenreduce.benchmark import Sample
from tokenreduce.cells import Cell, Setup
from tokenreduce.errors import AdapterError
from tokenreduce.records import Record, SampleRecord, TimingRecord
from tokenreduce.units import Unit

SLOW = "slow"
"""Name of a model that takes a minute for an answer."""

Deaths = tuple[tuple[str, str, str, int], ...]
"""Key of a cell, id of a question, what happens there, and how often."""


def setups(count: int) -> list[Setup]:
    return [Setup(f"model{number}", {"use": "fake"}) for number in range(count)]


def grid(models: int = 2, videos: int = 4, questions: int = 2, rows: int = 3) -> list[Unit]:
    """Return one unit of answers per model and video; ids do not repeat between videos."""
    units = []
    for setup in setups(models):
        cells = tuple(
            (f"{setup.model}-row{row}", Cell(setup, f"row{row}", f"row{row}", ()))
            for row in range(rows)
        )
        for video in range(videos):
            samples = tuple(
                Sample(f"v{video}q{number}", Path(f"v{video}.mp4"), "?", "yes", "colour")
                for number in range(questions)
            )
            digests = {sample.id: f"digest of {sample.id}" for sample in samples}
            units.append(Unit("answers", setup, samples, cells, digests=digests))
    return units


def answer(key: str, sample: Sample) -> SampleRecord:
    """Return the record that a worker must make: everything in it follows from the pair."""
    number = sum(map(ord, key + sample.id))
    return SampleRecord(
        cell=key,
        sample=sample.id,
        digest=f"digest of {sample.id}",
        category=sample.category,
        answer=sample.answer,
        prediction="yes" if number % 3 else "no",
        correct=bool(number % 3),
        visual_tokens=number,
        tokens_per_layer=(number, number // 2),
        flops=number // 2,
        flops_full=number,
        kv_bytes=number // 4,
        kv_bytes_full=number,
    )


@dataclass(frozen=True)
class FakeWorkers:
    """Makes fake workers; can be pickled.

    Attributes
    ----------
    notes
        Folder where workers note what they do: files survive their makers.
    delay
        Seconds per record.
    deaths
        Where workers die: ``kill``, ``raise``, ``refuse`` or ``exit``.
    refuse_to_start
        What happens instead of starting; empty: nothing.
    crowd
        Workers that must have been given a unit before any of them answers.
    """

    notes: Path
    delay: float = 0.0
    deaths: Deaths = ()
    refuse_to_start: str = ""
    crowd: int = 0

    def __call__(self) -> FakeWorker:
        print("a worker prints this")
        note(self.notes, "start", self.refuse_to_start)
        for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
            note(self.notes, name, os.environ.get(name, ""))
        note(self.notes, "torch", str("torch" in sys.modules))
        if self.refuse_to_start:
            end(self.refuse_to_start)
        return FakeWorker(self)


@dataclass
class FakeWorker:
    """Answers at once, or as slowly as it is told."""

    told: FakeWorkers
    loaded: list[str] = field(default_factory=list)

    def run(self, unit: Unit) -> Iterator[Record]:
        if self.loaded[-1:] != [unit.setup.model_key()]:
            self.loaded.append(unit.setup.model_key())
            note(self.told.notes, "load", unit.setup.model)
        while len({process for process, _ in noted(self.told.notes, "load")}) < self.told.crowd:
            time.sleep(0.01)
        for key, sample in unit.todo():
            time.sleep(60 if unit.setup.model == SLOW else self.told.delay)
            self._die_perhaps(key, sample)
            note(self.told.notes, "answer", f"{key} {sample.id}")
            if unit.kind == "timing":
                for number in range(2):
                    yield TimingRecord(key, sample.id, number, 1.0, 2.0)
            else:
                yield answer(key, sample)

    def ahead(self, unit: Unit | None) -> None:
        note(self.told.notes, "ahead", "none" if unit is None else unit.samples[0].id)

    def close(self) -> None:
        note(self.told.notes, "close", "")

    def _die_perhaps(self, key: str, sample: Sample) -> None:
        for cell, question, how, times in self.told.deaths:
            if (cell, question) == (key, sample.id):
                name = f"{how} {cell} {question}"
                if len(noted(self.told.notes, "death", name)) < times:
                    note(self.told.notes, "death", name)
                    end(how)


def end(how: str) -> None:
    if how == "kill":
        os.kill(os.getpid(), 9)
    if how == "exit":
        os._exit(3)
    if how == "refuse":
        raise AdapterError("this model cannot be loaded: give another one.")
    raise RuntimeError("the card fell off the bus\nand more")


def note(folder: Path, kind: str, what: str) -> None:
    """Leave a file that says what happened in which process."""
    name = f"{time.monotonic_ns()}-{os.getpid()}"
    (folder / f"{name}.tmp").write_text(f"{kind}\n{os.getpid()}\n{what}")
    (folder / f"{name}.tmp").rename(folder / f"{name}.note")


def noted(folder: Path, kind: str, what: str | None = None) -> list[tuple[int, str]]:
    """Return process id and what was noted, in the order it happened."""
    found = []
    for file in sorted(folder.glob("*.note"), key=lambda each: int(each.stem.split("-")[0])):
        each, process, said = file.read_text().split("\n", 2)
        if each == kind and what in (None, said):
            found.append((int(process), said))
    return found
