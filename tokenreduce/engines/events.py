"""What a worker tells the process that gave it a unit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

from tokenreduce.errors import TokenReduceError
from tokenreduce.records import Record
from tokenreduce.units import MakeWorker, Unit, Worker

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that a worker tells.

    Attributes
    ----------
    kind
        ``ready``: it can be given units. ``made``: a record. ``finished``: it is through with its
        unit. ``refused``: it cannot be done, nor by another worker. ``lost``: the worker raised
        something else, or is gone.
    record
        What was made.
    reason
        Why it cannot be done, for people.
    """

    kind: Literal["ready", "made", "finished", "refused", "lost"]
    record: Record | None = None
    reason: str = ""


def start(load: Callable[[], MakeWorker]) -> tuple[Worker | None, Event]:
    """Make a worker.

    Parameters
    ----------
    load
        Returns what makes it; called here because unpickling imports modules, which may fail.
    """
    try:
        return load()(), Event("ready")
    except Exception as error:
        return None, _stopped(error)


def events(worker: Worker, unit: Unit) -> Iterator[Event]:
    """Do a unit, and tell each record and how it ended."""
    try:
        for record in worker.run(unit):
            yield Event("made", record)
    except Exception as error:
        yield _stopped(error)
    else:
        yield Event("finished")


def _stopped(error: Exception) -> Event:
    if isinstance(error, TokenReduceError):  # raised on purpose: it would be raised again
        return Event("refused", reason=str(error))
    said = str(error).strip().splitlines()
    return Event("lost", reason=": ".join([type(error).__name__, *said[:1]]))
