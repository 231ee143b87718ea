"""Time and memory of calls, measured so that two of them can be compared.

Timed runs of all calls are interleaved: a machine that slows down or speeds up meanwhile (clocks,
other work) then touches every call alike. Memory is measured in runs of its own, for watching the
allocator slows a call down.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

Call = Callable[[], object]
Key = TypeVar("Key")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall-clock times of one call.

    Attributes
    ----------
    seconds
        Every timed run, in the order they were made.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median in seconds."""
        return median(self.seconds)

    @property
    def minimum(self) -> float:
        """Fastest run in seconds."""
        return min(self.seconds)

    @property
    def spread(self) -> float:
        """Slowest minus fastest run, in seconds."""
        return max(self.seconds) - min(self.seconds)


def time_to_first_token(
    calls: Mapping[str, Call],
    *,
    repeats: int = 3,
    warmup: int = 1,
    device: torch.device | str = "cpu",
    clock: Callable[[], float] = perf_counter,
) -> dict[str, Timing]:
    """Time calls that each make one token, in turns: A, B, C, A, B, C, ...

    Parameters
    ----------
    calls
        What to time, by name; usually ``generate(max_new_tokens=1)`` under different reducers.
    repeats
        Timed rounds.
    warmup
        Rounds before them that are not timed.
    device
        Where the calls compute; a CUDA device is synchronised around every timed run.
    clock
        Returns seconds.

    Returns
    -------
    dict
        One :class:`Timing` per call, under its name.

    Raises
    ------
    ValueError
        If ``repeats`` is below 1.
    """
    wait = _synchronise(device)

    def timed(call: Call) -> Callable[[], float]:
        def run() -> float:
            wait()
            start = clock()
            call()
            wait()
            return clock() - start

        return run

    for _ in range(warmup):
        for call in calls.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for name, run in in_turns({name: timed(call) for name, call in calls.items()}, repeats):
        seconds[name].append(run)
    return {name: Timing(tuple(runs)) for name, runs in seconds.items()}


def in_turns(
    calls: Mapping[Key, Callable[[], Result]], repeats: int
) -> Iterator[tuple[Key, Result]]:
    """Run calls in turns, A, B, C, A, B, C, ..., and yield each one's key and result.

    Parameters
    ----------
    calls
        What to run.
    repeats
        Rounds.

    Raises
    ------
    ValueError
        If ``repeats`` is below 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats}: at least one timed round is needed.")
    for _ in range(repeats):
        for key, call in calls.items():
            yield key, call()


class Stopwatch:
    """Marks moments of a device's work, and tells the time between two of them.

    On CUDA a mark is an event in the stream: nothing waits until the time is asked for. Elsewhere
    it is the clock's.

    Parameters
    ----------
    device
        Where the work is done.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._cuda = str(device).startswith("cuda")
        self._wait = _synchronise(device)

    def mark(self) -> Any:
        """Return a mark of this moment."""
        if not self._cuda:
            return perf_counter()
        import torch

        cuda: Any = torch.cuda
        event = cuda.Event(enable_timing=True)
        event.record()
        return event

    def wait(self) -> None:
        """Wait until the device has done all its work."""
        self._wait()

    def seconds(self, start: Any, end: Any) -> float:
        """Return the seconds between two marks."""
        if not self._cuda:
            return float(end - start)
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000


def peak_memory(call: Call, device: torch.device | str = "cpu") -> int:
    """Peak bytes of tensors while ``call`` runs once.

    On CUDA this is ``max_memory_allocated``, weights included. On the CPU it is the peak of live
    tensor bytes by the profiler's allocation events, counted from the start of the call, so that
    what was there before (the weights) is not in it; the resident size of a process never falls and
    says nothing.

    Parameters
    ----------
    call
        What to run.
    device
        Where it computes.
    """
    import torch

    where = torch.device(device)
    if where.type == "cuda":
        torch.cuda.synchronize(where)
        torch.cuda.reset_peak_memory_stats(where)
        call()
        torch.cuda.synchronize(where)
        return torch.cuda.max_memory_allocated(where)
    return max(_live_bytes(call))


def _synchronise(device: torch.device | str) -> Callable[[], None]:
    """Return what waits until the device has done all its work."""
    if str(device).startswith("cuda"):
        import torch

        return lambda: torch.cuda.synchronize(device)
    return lambda: None


def _live_bytes(call: Call) -> list[int]:
    """Return live tensor bytes after every allocation and release of ``call``, from 0 on."""
    from torch.profiler import ProfilerActivity, profile

    # Without it the profiler writes its own log lines between those of the progress bar.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    # Garbage from before that is released inside would count as memory the call gave back.
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watch:
            call()
    finally:
        if collecting:
            gc.enable()
    # The summaries of the public interface have no order in time; the raw events do.
    results: Any = watch.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return [0, *accumulate(event.nbytes() for event in events)]
