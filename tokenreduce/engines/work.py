"""What every engine keeps account of: units that wait, units at workers, and what came of them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from tokenreduce.records import Record, SampleRecord
from tokenreduce.units import Unit

ATTEMPTS = 3
"""How often in a row a unit may fail without any new answer before it is given up."""

Write = Callable[[Record], None]
"""Keeps a record; called in the process that runs the engine, one call at a time."""


@dataclass(frozen=True, slots=True)
class Status:
    """How far a run is, counted in pairs of a cell and a question.

    Attributes
    ----------
    total
        All of them.
    done
        Those that are finished, with or without an answer.
    failed
        Those of ``done`` that have none.
    in_flight
        Those whose unit is at a worker, not yet done.
    """

    total: int
    done: int
    failed: int
    in_flight: int


Progress = Callable[[Status], None]
"""Told after each change."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A unit that was given up, and why."""

    unit: Unit
    reason: str


@dataclass(slots=True, eq=False)
class Task:
    """A unit on its way through an engine.

    Attributes
    ----------
    unit
        What to do.
    model
        Key of the model that its setup loads.
    missing
        Pairs that are not finished: key of the cell and id of the question.
    failures
        How often it failed since its last answer.
    """

    unit: Unit
    model: str
    missing: set[tuple[str, str]]
    failures: int = 0

    def left(self) -> Unit:
        """Return the unit without the answers that have come."""
        if self.unit.kind != "answers":
            return self.unit  # several records belong together there, so all are made again
        came = {(key, sample.id) for key, sample in self.unit.todo()} - self.missing
        return replace(self.unit, done=self.unit.done | came)


@dataclass(eq=False)
class Work:
    """The units of one run.

    Parameters
    ----------
    units
        What to do.
    write
        Told each record.
    progress
        Told how far the run is.
    """

    units: Iterable[Unit]
    write: Write
    progress: Progress | None = None
    failures: list[Failure] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._waiting: dict[str, deque[Task]] = {}
        self._taken: set[Task] = set()
        self._reserved: set[Task] = set()  # they wait, announced to a worker
        self._total = self._done = self._failed = 0
        for unit in self.units:
            missing = {(key, sample.id) for key, sample in unit.todo()}
            self._total += len(missing)
            if missing:
                task = Task(unit, unit.setup.model_key(), missing)
                self._waiting.setdefault(task.model, deque()).append(task)
        self._tell()

    @property
    def waiting(self) -> int:
        """How many units are not at a worker."""
        return sum(map(len, self._waiting.values()))

    @property
    def over(self) -> bool:
        """Whether every unit is finished or given up."""
        return not self._taken and not self.waiting

    def take(self, loaded: str | None, reserved: Task | None = None) -> Task | None:
        """Hand out a unit, for the model that a worker has loaded if any of that is waiting.

        Otherwise for the model that the fewest workers are at, the first one of equal ones. Units
        that are reserved for other workers come last.

        Parameters
        ----------
        loaded
            Key of the model.
        reserved
            The unit that is reserved for this worker.
        """
        waiting = [model for model, tasks in self._waiting.items() if tasks]
        if not waiting:
            return None
        at = Counter(task.model for task in self._taken)
        model = loaded if loaded in waiting else min(waiting, key=lambda each: at[each])
        task = reserved or self._free(model) or self._waiting[model][0]
        self._waiting[task.model].remove(task)
        self._reserved.discard(task)
        self._taken.add(task)
        self._tell()
        return task

    def reserve(self, loaded: str | None) -> Task | None:
        """Keep the next unit for the model of a worker, as long as others find something else."""
        task = self._free(loaded)
        if task is not None:
            self._reserved.add(task)
        return task

    def release(self, task: Task) -> None:
        """Let any worker have a unit that was reserved."""
        self._reserved.discard(task)

    def _free(self, model: str | None) -> Task | None:
        waiting = self._waiting.get(model or "", ())
        return next((task for task in waiting if task not in self._reserved), None)

    def add(self, task: Task, record: Record) -> None:
        """Keep a record of a unit that is at a worker."""
        self.write(record)
        if task.unit.kind == "answers" and isinstance(record, SampleRecord):
            pair = record.cell, record.sample
            if pair in task.missing:
                task.missing.remove(pair)
                task.failures = 0  # machines come and go; only what fails in one place is hopeless
                self._count(1, failed=record.error is not None)

    def finish(self, task: Task) -> None:
        """Note that a worker is through with a unit."""
        if task.unit.kind == "answers" and task.missing:
            self._give_up(task, "the worker ended without an answer to this question")
            return
        self._taken.remove(task)
        self._count(len(task.missing))

    def fail(self, task: Task, reason: str, *, again: bool = True) -> None:
        """Note that a unit failed as a whole: it waits for another attempt, or is given up.

        Parameters
        ----------
        task
            The unit.
        reason
            Why, for people.
        again
            Whether another attempt makes sense.
        """
        task.failures += 1
        if again and task.missing and task.failures < ATTEMPTS:
            self._taken.remove(task)
            self._waiting[task.model].appendleft(task)
            self._tell()
        elif task.missing:
            tried = f" (tried {task.failures} times)" if task.failures > 1 else ""
            self._give_up(task, reason + tried)
        else:  # it died after its last answer
            self.finish(task)

    def _give_up(self, task: Task, reason: str) -> None:
        self._taken.remove(task)
        self.failures.append(Failure(task.unit, reason))
        if task.unit.kind == "answers":
            for key, sample in task.left().todo():
                self.write(task.unit.failed(key, sample, reason))
        self._count(len(task.missing), failed=True)

    def _count(self, pairs: int, *, failed: bool = False) -> None:
        self._done += pairs
        self._failed += pairs if failed else 0
        self._tell()

    def _tell(self) -> None:
        if self.progress is not None:
            flying = sum(len(task.missing) for task in self._taken)
            self.progress(Status(self._total, self._done, self._failed, flying))
