"""Checks of benchmarks: their settings, their questions, and when an answer is right."""

from __future__ import annotations

import math

from tokenreduce.benchmark import Benchmark
from tokenreduce.errors import TokenReduceError
from tokenreduce.testing.check import Check, require
from tokenreduce.testing.settings_checks import SETTINGS_CHECKS

DECODED = 3
"""Videos that are opened, spread over the benchmark: all of a large one would take hours."""


def questions_are_complete(benchmark: Benchmark) -> None:
    """There are questions, with ids of their own and no text missing."""
    samples = benchmark.samples()
    require(samples, "samples() is empty")
    ids = [sample.id for sample in samples]
    twice = sorted({each for each in ids if ids.count(each) > 1})
    require(not twice, f"ids that are used more than once: {twice}")
    for sample in samples:
        empty = [
            name
            for name in ("id", "question", "answer", "category")
            if not str(getattr(sample, name)).strip()
        ]
        require(not empty, f"sample '{sample.id}' has no {' and no '.join(empty)}")
        wanted = sample.frames
        require(wanted is None or wanted >= 1, f"sample '{sample.id}' asks for {wanted} frames")


def questions_are_the_same_every_time(benchmark: Benchmark) -> None:
    """The same settings give the same questions in the same order."""
    twin = type(benchmark).model_validate(benchmark.model_dump(mode="json"))
    first, again, other = benchmark.samples(), benchmark.samples(), twin.samples()
    require(first == again, "two calls of samples() differ: seed what is drawn at random")
    require(first == other, "samples() of an equal benchmark differs")


def videos_are_there(benchmark: Benchmark) -> None:
    """Every video is a file, and those that are tried can be decoded."""
    samples = benchmark.samples()
    videos = list(dict.fromkeys(sample.video for sample in samples))
    lost = [str(path) for path in videos if not path.is_file()]
    require(not lost, f"{len(lost)} videos are no files, the first is {lost[0] if lost else ''}")
    from tokenreduce.video import load_video

    for path in videos[:: math.ceil(len(videos) / DECODED)]:
        try:
            load_video(path, 2)
        except TokenReduceError as error:
            require(False, f"{path} cannot be decoded: {error}")


def right_answers_are_right(benchmark: Benchmark) -> None:
    """A sample's own answer counts as right."""
    for sample in benchmark.samples():
        verdict = benchmark.matches(sample, sample.answer)
        require(verdict is True, f"sample '{sample.id}': its own answer gives {verdict!r}")


def wrong_answers_are_wrong(benchmark: Benchmark) -> None:
    """Nothing, and words that are no answer, do not count as right."""
    for sample in benchmark.samples():
        for said in ("", "no such answer in any benchmark"):
            verdict = benchmark.matches(sample, said)
            require(verdict is False, f"sample '{sample.id}': {said!r} gives {verdict!r}")


def progress_goes_forward(benchmark: Benchmark) -> None:
    """Progress is told in order, from nothing up to a total."""
    told: list[tuple[int, int, str]] = []

    def progress(done: int, total: int, what: str) -> None:
        told.append((done, total, what))

    benchmark.samples(progress)
    for done, total, what in told:
        require(0 <= done <= total, f"{done} of {total} is done")
        require(what.strip(), "progress is told without a word on what is being done")
    counts = [done for done, _, _ in told]
    require(counts == sorted(counts), f"progress goes back: {counts}")


BENCHMARK_CHECKS = (
    *SETTINGS_CHECKS,
    Check(questions_are_complete),
    Check(questions_are_the_same_every_time),
    Check(videos_are_there),
    Check(right_answers_are_right),
    Check(wrong_answers_are_wrong),
    Check(progress_goes_forward),
)
