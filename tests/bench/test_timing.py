"""Marks and times, against a clock that is known."""

from __future__ import annotations

import itertools
from time import perf_counter
from typing import Any

import pytest

from tests.bench.test_pattern import REDUCERS, subject_of
from tokenreduce.bench.phases import Clock, profile_prefill
from tokenreduce.bench.timing import Meter, timed_generate
from tokenreduce.measure import Stopwatch, in_turns


class Ticks(Stopwatch):
    """A stopwatch that shows given times, one after the other."""

    def __init__(self, *times: float) -> None:
        super().__init__()
        self._times = iter(times)

    def mark(self) -> Any:
        return next(self._times)


def test_a_meter_tells_first_token_prefill_and_decode() -> None:
    # start, prompt, forward from 2 to 7, first token at 8, then forwards and tokens at 11, 13, 19
    meter = Meter(Ticks(1, 2, 7, 8, 8.5, 10, 11, 11.5, 12, 13, 14, 18, 19))
    start = 0.0
    meter.put("prompt")
    for _ in range(4):
        meter.before()
        meter.after()
        meter.put("token")
    sample = meter.sample(start)
    assert (sample.ttft, sample.prefill, sample.first_token) == (8, 5, 3)
    assert sample.decode == 3  # the middle one of 3, 2 and 6


def test_a_clock_counts_what_runs_inside_once() -> None:
    clock = Clock(Ticks(0, 2, 3, 7, 9, 10))
    clock.enter("layer")  # 0 to 10
    clock.enter("plan")  # 2 to 9
    assert clock.around("scoring", lambda: "made") == "made"  # 3 to 7
    clock.leave()
    clock.leave()
    assert clock.spent == {"layer": 3, "plan": 3, "scoring": 4}


def test_generate_is_timed_with_and_without_reducers() -> None:
    subject = subject_of()
    traces: list[Any] = []
    bare = timed_generate(subject, None, decode=3)
    fastv = timed_generate(subject, [REDUCERS["fastv"]()], decode=0, keep=traces.append)
    for sample in (bare, fastv):
        assert 0 < sample.prefill < sample.ttft
    assert bare.decode is not None
    assert fastv.decode is None
    assert traces[0].tokens_per_layer == ((24, 24, *[12] * 6),)
    hooks = [subject.model._forward_pre_hooks, subject.model._forward_hooks]
    assert not any(hooks)


def test_another_attention_lasts_for_one_call() -> None:
    subject = subject_of()
    names = []
    hook = subject.model.register_forward_pre_hook(lambda *_: names.append(subject.attention))
    timed_generate(subject, None, decode=0, implementation="eager")
    timed_generate(subject, None, decode=0)
    hook.remove()
    assert names == ["eager", "sdpa"]


@pytest.mark.parametrize("name", ["vas", "fastv", "tome", "vcc"])
def test_a_profile_finds_every_part(name: str) -> None:
    subject = subject_of()
    settings = {"vas": {"start_layer": 2, "end_layer": 5}, "tome": {"r": 2}}.get(name, {})
    start = perf_counter()
    phases = profile_prefill(subject, [REDUCERS[name](**settings)], "published")
    assert phases.total < perf_counter() - start
    parts = [*phases.layers, phases.scoring, phases.plan, phases.apply, phases.rest]
    assert min(parts) >= 0
    assert phases.plan > 0
    assert (phases.scoring > 0) == (name != "vcc")
    assert phases.tokens[0] == 32 > phases.tokens[-1]
    assert not any(layer._forward_pre_hooks for layer in subject.model.model.layers)


def test_a_bare_model_spends_nothing_on_reduction() -> None:
    phases = profile_prefill(subject_of(), None, "published")
    assert (phases.scoring, phases.plan) == (0, 0)
    assert phases.tokens == (32,) * 8


def test_turns() -> None:
    counter = itertools.count()
    calls = {name: lambda: next(counter) for name in "ab"}
    assert list(in_turns(calls, 2)) == [("a", 0), ("b", 1), ("a", 2), ("b", 3)]
    with pytest.raises(ValueError, match="repeats=0"):
        list(in_turns(calls, 0))
