"""Worker processes on this machine, each with a pipe to the calling process."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait

from tokenreduce.engines.child import AHEAD, STOP
from tokenreduce.engines.events import Event
from tokenreduce.engines.pool import Pool, Slot
from tokenreduce.units import MakeWorker, Unit

_END = 5.0  # seconds for a process that was told to end


class LocalSlot(Slot):
    """A place for one worker process.

    Parameters
    ----------
    environment
        What differs from the environment of this process.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        super().__init__()
        self.environment = environment
        self.process: subprocess.Popen[bytes] | None = None
        self.pipe: Connection[bytes, Event] | None = None

    def start(self, make_worker: MakeWorker) -> None:
        """Start a fresh interpreter with the module path of this one."""
        message = pickle.dumps(make_worker)
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _code(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what it prints is no part of our output
                env=os.environ | self.environment,
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C in a terminal is for this process alone
            )
        self.pipe = Connection(ours.detach())
        self._send(message)

    def give(self, unit: Unit) -> None:
        """Send the unit."""
        self._send(pickle.dumps(unit))

    def ahead(self, unit: Unit | None) -> None:
        """Send the announcement."""
        self._send(AHEAD + pickle.dumps(unit))

    def receive(self) -> Event:
        """Return the next event; that the worker is gone if there is none."""
        assert self.pipe is not None
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            return Event("lost", reason=self._why())

    def kill(self) -> None:
        """Send the process a signal that it cannot ignore."""
        if self.process is not None:
            self.process.kill()

    def leave(self) -> None:
        """Wait for the process, and close the pipe."""
        if self.process is not None:
            self._exit_status()
        if self.pipe is not None:
            self.pipe.close()
        self.process = self.pipe = None

    def stop(self) -> None:
        """Tell an idle process to end."""
        self._send(STOP)

    def _send(self, message: bytes) -> None:
        assert self.pipe is not None
        with suppress(OSError):  # it is gone, which the next event says
            self.pipe.send_bytes(message)

    def _why(self) -> str:
        code = self._exit_status()
        if code >= 0:
            return f"the worker process ended with exit status {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        memory = ", as the system does when memory runs out" if name == "SIGKILL" else ""
        return f"the worker process was ended by {name}{memory}"

    def _exit_status(self) -> int:
        assert self.process is not None
        try:
            return self.process.wait(_END)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class LocalEngine(Pool[LocalSlot]):
    """Worker processes on this machine.

    They end by themselves if this process dies, whatever it dies of.

    Parameters
    ----------
    workers
        How many.
    devices
        Names as in ``CUDA_VISIBLE_DEVICES``; each worker sees one of them, in turns. None: every
        worker sees what this process sees.
    """

    def __init__(self, workers: int, devices: Sequence[str] = ()) -> None:
        super().__init__()
        self.workers, self.devices = workers, tuple(devices)

    def open(self) -> None:
        """Make the places; processes are started when there is work."""
        if not self.slots:
            self.slots = [LocalSlot(self._environment(index)) for index in range(self.workers)]

    def wait(self, slots: Sequence[LocalSlot]) -> Sequence[LocalSlot]:
        """Wait for the pipes."""
        ready = wait([slot.pipe for slot in slots if slot.pipe is not None])
        return [slot for slot in slots if slot.pipe in ready]

    def close(self) -> None:
        """Let idle workers end by themselves, all at once; stop the others."""
        idle = [slot for slot in self.slots if slot.state == "idle"]
        for slot in idle:
            slot.stop()
        for slot in idle:
            slot.leave()
        super().close()

    def about(self) -> list[str]:
        """Say how many processes, and on which devices."""
        where = f" on CUDA devices {', '.join(self.devices)}" if self.devices else ""
        return [f"{self.workers} worker process{'es' * (self.workers != 1)}{where}"]

    def _environment(self, index: int) -> dict[str, str]:
        threads = max(1, cores() // self.workers)
        environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
        if self.devices:
            environment["CUDA_VISIBLE_DEVICES"] = self.devices[index % len(self.devices)]
        return environment


def cores() -> int:
    """Return how many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _code(handle: int) -> str:
    # Not the caller's script again, as multiprocessing would: that need not be importable.
    path = f"import sys; sys.path[:] = {sys.path!r}"
    return f"{path}; from tokenreduce.engines.child import main; main({handle})"
