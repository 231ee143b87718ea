"""What a worker process of the local engine runs."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from contextlib import closing
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import cast

from tokenreduce.engines.events import Event, events, start
from tokenreduce.units import MakeWorker, Unit, Worker

STOP = b""

AHEAD = b"ahead"
"""What a pickle begins with that announces a unit, or takes back the last announcement."""


def main(handle: int) -> None:
    """Make a worker and do units until told to stop, or until the process at the other end dies.

    Parameters
    ----------
    handle
        File descriptor of this end of the pipe. What comes through it are pickles: first what
        makes the worker, then units; :data:`STOP` ends it, and what begins with :data:`AHEAD` is
        heard while it works. What goes out are events.
    """
    pipe: Connection[Event, bytes] = Connection(handle)
    inbox: SimpleQueue[bytes] = SimpleQueue()
    made: list[Worker] = []

    def announce(message: bytes) -> None:
        made[0].ahead(cast("Unit | None", pickle.loads(message)))  # there before it has a unit

    Thread(target=_listen, args=(pipe, inbox, announce), daemon=True).start()
    first = inbox.get()
    worker, event = start(lambda: cast(MakeWorker, pickle.loads(first)))
    if worker is None:
        _tell(pipe, event)
        return
    made.append(worker)
    with closing(worker):
        _tell(pipe, event)
        while (message := inbox.get()) != STOP:
            for event in events(worker, pickle.loads(message)):
                _tell(pipe, event)


def _listen(
    pipe: Connection[Event, bytes], inbox: SimpleQueue[bytes], announce: Callable[[bytes], None]
) -> None:
    """Take in messages while the worker works, so that a closed pipe is noticed at once."""
    try:
        while True:
            message = pipe.recv_bytes()
            if message.startswith(AHEAD):
                announce(message.removeprefix(AHEAD))
            else:
                inbox.put(message)
    except (EOFError, OSError):  # the other process is gone, and what is half done is of no use
        os._exit(1)


def _tell(pipe: Connection[Event, bytes], event: Event) -> None:
    try:
        pipe.send(event)
    except OSError:
        os._exit(1)
