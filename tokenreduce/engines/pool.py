"""Hand units out to workers, whatever these are, and take in what they make."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Generic, Literal, Self, TypeVar

from tokenreduce.engines.events import Event
from tokenreduce.engines.work import Failure, Progress, Task, Work, Write
from tokenreduce.errors import WorkerError
from tokenreduce.units import MakeWorker, Unit

STARTS = 3
"""How often in a row a worker may fail to start before its place stays empty."""


class Engine(ABC):
    """Does units of work, somewhere. Use it as a context manager; several runs keep its workers.

    Attributes
    ----------
    notes
        What people should know about runs that have ended.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []

    @abstractmethod
    def run(
        self,
        units: Iterable[Unit],
        make_worker: MakeWorker,
        write: Write,
        progress: Progress | None = None,
        *,
        alone: bool = False,
    ) -> list[Failure]:
        """Do all units; return when each is finished or given up.

        A unit whose worker dies or raises is tried again by a fresh one, without the answers that
        have come already; three times in a row without a new one, and it is given up. It is given
        up at once if the worker raises a :class:`~tokenreduce.errors.TokenReduceError`. Of a unit
        of answers that is given up, every missing one is written as failed, with the reason.

        Parameters
        ----------
        units
            What to do, in any order.
        make_worker
            Called where the work is done.
        write
            Called here, in this process and thread, as soon as a record arrives. A record other
            than an answer may come twice, the later one being the right one.
        progress
            Told after each change.
        alone
            Whether one unit is done at a time, as timings ask for.

        Returns
        -------
        list
            Units that were given up.

        Raises
        ------
        WorkerError
            If no worker can be started.
        KeyboardInterrupt
            If the user interrupts; workers are stopped at once, and what was written stays.
        """

    @abstractmethod
    def open(self) -> None:
        """Prepare what workers need, if that has not been done; :meth:`run` does it as well.

        Raises
        ------
        WorkerError
            If that cannot be done.
        """

    def about(self) -> list[str]:
        """Say in a few lines for people where the work is done."""
        return []

    @abstractmethod
    def close(self) -> None:
        """End the workers."""

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Slot(ABC):
    """A place for one worker at a time.

    Attributes
    ----------
    state
        ``down``: there is no worker. ``starting``, ``idle`` and ``busy``: there is one.
    task
        The unit that it is busy with.
    reserved
        The unit that comes after that, unless another worker is idle before.
    loaded
        Key of the model of its last unit.
    failed_starts
        How many workers in a row did not get ready.
    """

    def __init__(self) -> None:
        self.state: Literal["down", "starting", "idle", "busy"] = "down"
        self.task: Task | None = None
        self.reserved: Task | None = None
        self.loaded: str | None = None
        self.failed_starts = 0

    @abstractmethod
    def start(self, make_worker: MakeWorker) -> None:
        """Start a worker; it is ready after the event that says so."""

    @abstractmethod
    def give(self, unit: Unit) -> None:
        """Give the worker a unit."""

    @abstractmethod
    def ahead(self, unit: Unit | None) -> None:
        """Announce the next unit to a worker; None: the one announced last will not come."""

    @abstractmethod
    def receive(self) -> Event:
        """Return what the worker says next, after :meth:`Pool.wait` returned this slot."""

    @abstractmethod
    def kill(self) -> None:
        """End the worker, if there is one, without waiting until it has ended."""

    @abstractmethod
    def leave(self) -> None:
        """Wait until a worker that is ending has ended, and forget it."""

    def clear(self) -> None:
        """End the worker and forget it."""
        self.kill()
        self.leave()
        self.state, self.task, self.reserved, self.loaded = "down", None, None, None


SlotT = TypeVar("SlotT", bound=Slot)


class Pool(Engine, Generic[SlotT]):
    """An engine with several places for workers."""

    def __init__(self) -> None:
        super().__init__()
        self.slots: list[SlotT] = []
        self._make_worker: MakeWorker | None = None

    @abstractmethod
    def wait(self, slots: Sequence[SlotT]) -> Sequence[SlotT]:
        """Wait until some of the slots have an event, and return those.

        Raises
        ------
        WorkerError
            If there will be none.
        """

    def run(
        self,
        units: Iterable[Unit],
        make_worker: MakeWorker,
        write: Write,
        progress: Progress | None = None,
        *,
        alone: bool = False,
    ) -> list[Failure]:
        """Do all units; see :meth:`Engine.run`."""
        self.open()
        work = Work(units, write, progress)
        try:
            if make_worker is not self._make_worker:
                self._stop()
                self._make_worker = make_worker
            while not work.over:
                usable = [slot for slot in self.slots if slot.failed_starts < STARTS]
                self._employ(work, make_worker, self._alone(usable) if alone else usable)
                if not alone:
                    self._announce(work)
                for slot in self.wait([s for s in self.slots if s.state in ("starting", "busy")]):
                    self._handle(slot, slot.receive(), work)
        except BaseException:  # an interrupt, or a record that cannot be written
            self._stop()
            raise
        return work.failures

    def close(self) -> None:
        """End the workers."""
        self._stop()

    def _stop(self) -> None:
        for slot in self.slots:
            slot.kill()  # all of them, before the first is waited for
        for slot in self.slots:
            slot.clear()
            slot.failed_starts = 0

    def _alone(self, slots: Sequence[SlotT]) -> Sequence[SlotT]:
        """Return one of the slots, and end workers that are still starting in the others."""
        for slot in slots[1:]:
            if slot.state == "starting":
                slot.clear()
        return slots[:1]

    def _employ(self, work: Work, make_worker: MakeWorker, slots: Sequence[SlotT]) -> None:
        """Give idle workers something to do, and start as many more as can have something."""
        for slot in slots:
            if slot.state != "idle":
                continue
            own, slot.reserved = slot.reserved, None
            if (task := work.take(slot.loaded, own)) is not None:
                self._take_back(task)
                slot.state, slot.task, slot.loaded = "busy", task, task.model
                slot.give(task.left())
        starting = sum(slot.state == "starting" for slot in slots)
        down = [slot for slot in slots if slot.state == "down"]
        for slot in down[: max(0, work.waiting - starting)]:
            slot.state = "starting"
            slot.start(make_worker)

    def _take_back(self, task: Task) -> None:
        """Tell a worker that a unit which was announced to it goes to another one."""
        for slot in self.slots:
            if slot.reserved is task:
                slot.reserved = None
                slot.ahead(None)

    def _announce(self, work: Work) -> None:
        """Tell each busy worker what comes next."""
        for slot in self.slots:
            if slot.state == "busy" and slot.reserved is None:
                slot.reserved = work.reserve(slot.loaded)
                if slot.reserved is not None:
                    slot.ahead(slot.reserved.left())

    def _handle(self, slot: SlotT, event: Event, work: Work) -> None:
        if slot.state == "starting":
            self._started(slot, event)
            return
        task = slot.task
        assert task is not None
        if event.kind == "made" and event.record is not None:
            work.add(task, event.record)
            return
        if event.kind == "lost":
            if slot.reserved is not None:
                work.release(slot.reserved)
            slot.clear()
            work.fail(task, event.reason)
            return
        slot.state, slot.task = "idle", None
        if event.kind == "refused":
            work.fail(task, event.reason, again=False)
        else:
            work.finish(task)

    def _started(self, slot: SlotT, event: Event) -> None:
        if event.kind == "ready":
            slot.state, slot.failed_starts = "idle", 0
            return
        slot.clear()
        slot.failed_starts += 1
        if event.kind == "refused":
            raise WorkerError(event.reason)
        if slot.failed_starts == STARTS:
            self.notes.append(f"one worker fewer, it cannot be started: {event.reason}")
        if all(each.failed_starts >= STARTS for each in self.slots):
            raise WorkerError(
                f"no worker can be started ({event.reason}): what is finished is kept, so run "
                "again when that is mended."
            )
