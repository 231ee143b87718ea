"""The questions of a benchmark, and some of them, evenly spread."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

from tokenreduce.errors import ConfigError, TokenReduceError

if TYPE_CHECKING:
    from tokenreduce.benchmark import Benchmark, Progress, Sample

Item = TypeVar("Item")


def list_questions(benchmark: Benchmark, progress: Progress | None = None) -> list[Sample]:
    """Return all questions of a benchmark.

    Raises
    ------
    ConfigError
        If it cannot list them, or two of them have one id.
    """
    try:
        samples = benchmark.samples(progress)
    except TokenReduceError:
        raise
    except Exception as error:  # of a benchmark that anybody may have written
        raise ConfigError(
            f"benchmark '{benchmark.name}' cannot list its questions: {type(error).__name__}: "
            f"{error}; look at its files and settings."
        ) from error
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise ConfigError(
                f"benchmark '{benchmark.name}' has two questions with the id '{sample.id}': ids "
                "are what results are known by, so each must be another."
            )
        seen.add(sample.id)
    return samples


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return ``count`` items (all, if there are fewer) evenly spread, the first one included."""
    count = min(count, len(items))
    return [items[len(items) * i // count] for i in range(count)]


def before_each(samples: Sequence[Sample]) -> dict[str, Sample]:
    """Return, by the id of each question, the one that is asked before it in a second turn.

    That is the one before it about the same clip, and for the first one the last. A question that
    is the only one about its clip has none.
    """
    clips: dict[object, list[Sample]] = {}
    for sample in samples:
        clips.setdefault((sample.video, sample.start, sample.end), []).append(sample)
    return {
        sample.id: group[number - 1]
        for group in clips.values()
        if len(group) > 1
        for number, sample in enumerate(group)
    }


def by_video(samples: Sequence[Sample]) -> list[tuple[Sample, ...]]:
    """Return the questions video by video, in the order in which videos are first asked about."""
    first: dict[object, int] = {}
    for sample in samples:
        first.setdefault(sample.video, len(first))
    ordered = sorted(samples, key=lambda sample: first[sample.video])  # stable
    return [tuple(group) for _, group in groupby(ordered, key=lambda sample: sample.video)]
