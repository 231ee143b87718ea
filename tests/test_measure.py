"""Timing in turns with a clock of our own; memory of calls whose peak is plain arithmetic."""

from __future__ import annotations

import gc

import pytest
import torch

from tokenreduce.measure import Timing, peak_memory, time_to_first_token

MB = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_runs_are_interleaved_after_warm_up() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "ABC"}
    time_to_first_token(calls, repeats=2, warmup=1)
    assert "".join(order) == "ABC" + "ABCABC"


def test_times_by_hand() -> None:
    clock = Clock()
    # Seconds of the warm-up run and of three timed ones: the warm-up is not among the results.
    durations = {"full": [9.0, 4.0, 2.0, 6.0], "half": [9.0, 1.0, 3.0, 2.0]}

    def wait(name: str) -> None:
        clock.now += durations[name].pop(0)

    timings = time_to_first_token(
        {name: lambda name=name: wait(name) for name in ("full", "half")}, clock=clock
    )
    assert timings["full"] == Timing((4.0, 2.0, 6.0))
    assert timings["half"] == Timing((1.0, 3.0, 2.0))
    assert timings["full"].median / timings["half"].median == 2.0
    assert timings["full"].minimum == 2.0
    assert timings["full"].spread == 4.0


def test_no_round() -> None:
    with pytest.raises(ValueError, match="repeats=0"):
        time_to_first_token({"a": lambda: None}, repeats=0)


def test_peak_counts_what_is_alive_together() -> None:
    def call() -> None:
        first = torch.empty(MB)  # 4 MB
        second = torch.empty(MB // 2)  # 2 MB: 6 MB alive, the peak
        del first
        third = torch.empty(MB // 2)  # 2 MB: 4 MB alive
        del second, third

    assert peak_memory(call) == 6 * MB


def test_peak_leaves_out_what_was_there_before() -> None:
    weight = torch.ones(1000, 1000)
    result = []

    def call() -> None:
        x = torch.ones(500, 1000)  # 2 MB
        x = x @ weight  # 2 MB more, then the first is free
        result.append(x @ weight)  # 2 MB more

    assert peak_memory(call) == 4 * MB


def test_peak_sees_temporaries_inside_operators() -> None:
    x = torch.ones(MB)

    # (x > 0) makes 1 MB of booleans, x * 2 another 4 MB, where() its 4 MB result.
    assert peak_memory(lambda: torch.where(x > 0, x * 2, x)) == 9 * MB


def test_releasing_older_tensors_is_no_negative_peak() -> None:
    held = [torch.ones(MB)]
    assert peak_memory(held.clear) == 0


def test_the_profiler_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    peak_memory(lambda: torch.ones(3))
    assert capfd.readouterr() == ("", "")


def test_a_failing_call_fails() -> None:
    def call() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        peak_memory(call)
    assert peak_memory(lambda: torch.empty(MB)) == 4 * MB


@pytest.mark.gpu
def test_cuda_peak() -> None:
    before = torch.cuda.memory_allocated()
    peak = peak_memory(lambda: torch.empty(MB, device="cuda"), "cuda")
    assert 0 <= peak - before - 4 * MB < 2 * 1024**2


def test_garbage_from_before_does_not_lower_the_peak() -> None:
    """What an earlier watched call left in a cycle is not given back by this one."""

    def leaves_a_cycle() -> None:
        cycle: list[object] = [torch.ones(1_000_000)]
        cycle.append(cycle)

    def call() -> None:
        gc.collect()  # as the interpreter may do at any moment
        torch.ones(250_000)

    gc.disable()  # so that nothing but `call` collects it
    try:
        peak_memory(leaves_a_cycle)
        assert peak_memory(call) >= 1_000_000
    finally:
        gc.enable()
