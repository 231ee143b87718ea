"""Kill a command at random moments, again and again, and see what is left of it.

Whoever uses this says how the command is called: it writes to a folder, and started again with
the same folder it goes on until everything is done, and ends with status 0.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

Command = Callable[[Path], Sequence[str]]
"""Returns the words of the command that writes to a folder."""


@dataclass
class Outcome:
    """What came of it.

    Attributes
    ----------
    moments
        Seconds after its start at which the command was killed, in order.
    folders
        Where it was finished in the end; a new one is begun whenever it finishes too early.
    orphans
        What its processes were that outlived it by more than the grace.
    """

    moments: list[float] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)


def kill_at_random(
    command: Command,
    parent: Path,
    *,
    kills: int,
    longest: float,
    seed: int,
    grace: float = 3.0,
    counts: Callable[[psutil.Process], bool] = lambda process: True,
    look: Callable[[Path], None] = lambda folder: None,
    limit: float = 300.0,
) -> Outcome:
    """Kill the command ``kills`` times at moments drawn from [0, ``longest``] s, and finish it.

    ``counts`` says which of its processes must end within the grace. ``look`` is shown the folder
    after each kill. ``limit`` is for a run that is not killed.
    """
    draw = random.Random(seed)
    outcome = Outcome()
    while True:
        folder = parent / f"round{len(outcome.folders)}"
        while len(outcome.moments) < kills:
            moment = draw.uniform(0, longest)
            with subprocess.Popen(list(command(folder))) as process:
                if _ends(process, moment):
                    break
                outcome.orphans += kill(process, grace, counts)
            outcome.moments.append(moment)
            if folder.exists():
                look(folder)
        subprocess.run(list(command(folder)), check=True, timeout=limit)
        outcome.folders.append(folder)
        if len(outcome.moments) >= kills:
            return outcome


def _ends(process: subprocess.Popen[bytes], within: float) -> bool:
    try:
        assert process.wait(within) == 0
    except subprocess.TimeoutExpired:
        return False
    return True


def kill(
    process: subprocess.Popen[bytes],
    grace: float,
    counts: Callable[[psutil.Process], bool] = lambda process: True,
) -> list[str]:
    """Kill a process, not those it has started; return which of these do not end by themselves."""
    started = [
        each for each in psutil.Process(process.pid).children(recursive=True) if counts(each)
    ]
    process.kill()
    process.wait()
    until = time.monotonic() + grace
    while (left := [each for each in started if _alive(each)]) and time.monotonic() < until:
        time.sleep(0.02)
    return [str(each) for each in left]


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)  # one that nobody waits for is dead
    except psutil.NoSuchProcess:
        return False
