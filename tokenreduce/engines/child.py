"""What a worker process of the local engine runs."""

from __future__ import annotations

import os
import pickle
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import cast

from tokenreduce.engines.events import Event, events, start
from tokenreduce.units import MakeWorker

STOP = b""


def main(handle: int) -> None:
    """Make a worker and do units until told to stop, or until the process at the other end dies.

    Parameters
    ----------
    handle
        File descriptor of this end of the pipe. What comes through it are pickles: first what
        makes the worker, then units; :data:`STOP` ends it. What goes out are events.
    """
    pipe: Connection[Event, bytes] = Connection(handle)
    inbox: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_listen, args=(pipe, inbox), daemon=True).start()
    first = inbox.get()
    worker, event = start(lambda: cast(MakeWorker, pickle.loads(first)))
    _tell(pipe, event)
    while worker is not None and (message := inbox.get()) != STOP:
        for event in events(worker, pickle.loads(message)):
            _tell(pipe, event)


def _listen(pipe: Connection[Event, bytes], inbox: SimpleQueue[bytes]) -> None:
    """Take in messages while the worker works, so that a closed pipe is noticed at once."""
    try:
        while True:
            inbox.put(pipe.recv_bytes())
    except (EOFError, OSError):  # the other process is gone, and what is half done is of no use
        os._exit(1)


def _tell(pipe: Connection[Event, bytes], event: Event) -> None:
    try:
        pipe.send(event)
    except OSError:
        os._exit(1)
