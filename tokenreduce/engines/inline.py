"""Do the units in the calling process, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tokenreduce.engines.events import Event, events, start
from tokenreduce.engines.pool import Pool, Slot
from tokenreduce.units import MakeWorker, Unit, Worker


class InlineSlot(Slot):
    """A worker that is an object of this process; if it dies, this process does."""

    def __init__(self) -> None:
        super().__init__()
        self._worker: Worker | None = None
        self._events: Iterator[Event] = iter(())

    def start(self, make_worker: MakeWorker) -> None:
        """Make the worker."""
        self._worker, event = start(lambda: make_worker)
        self._events = iter((event,))

    def give(self, unit: Unit) -> None:
        """Note the unit; it is done while its events are received."""
        assert self._worker is not None
        self._events = events(self._worker, unit)

    def ahead(self, unit: Unit | None) -> None:
        """Tell the worker."""
        assert self._worker is not None
        self._worker.ahead(unit)

    def receive(self) -> Event:
        """Work until there is something to say."""
        return next(self._events)

    def kill(self) -> None:
        """Do nothing: it runs only while it is asked for events."""

    def leave(self) -> None:
        """Drop the worker, and with it the model that it has loaded."""
        self._events = iter(())
        if self._worker is not None:
            self._worker.close()
        self._worker = None


class InlineEngine(Pool[InlineSlot]):
    """One worker in the calling process: no start-up time."""

    def open(self) -> None:
        """Make the one place."""
        self.slots = self.slots or [InlineSlot()]

    def wait(self, slots: Sequence[InlineSlot]) -> Sequence[InlineSlot]:
        """Return the slot: it always has something to say."""
        return slots

    def about(self) -> list[str]:
        """Say that it is this process."""
        return ["1 worker in this process"]
