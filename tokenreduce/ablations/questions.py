"""The questions of a benchmark, and some of them, evenly spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

from tokenreduce.ablations.held_out import slice_of
from tokenreduce.cells import digest
from tokenreduce.errors import ConfigError, TokenReduceError
from tokenreduce.fingerprint import sample_digest

if TYPE_CHECKING:
    from tokenreduce.benchmark import Benchmark, Progress, Sample

Item = TypeVar("Item")


def list_questions(benchmark: Benchmark, progress: Progress | None = None) -> list[Sample]:
    """Return all questions of a benchmark.

    Raises
    ------
    ConfigError
        If it cannot list them, there is none, or two of them have one id.
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
    if not samples:
        raise ConfigError(f"benchmark '{benchmark.name}' has no question: look at its settings.")
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise ConfigError(
                f"benchmark '{benchmark.name}' has two questions with the id '{sample.id}': ids "
                "are what results are known by, so each must be another."
            )
        seen.add(sample.id)
    return samples


@dataclass(frozen=True)
class Asked:
    """The questions of a setup, and those that are held out of its tables to solve budgets on.

    Attributes
    ----------
    samples, held_out
        Both of them.
    before
        Of second turns: by the id of each question the one that is asked before it.
    alone
        How many questions are left out because there is none to be asked before them.
    """

    samples: tuple[Sample, ...]
    held_out: tuple[Sample, ...] = ()
    before: Mapping[str, Sample] = field(default_factory=dict)
    alone: int = 0

    @cached_property
    def digests(self) -> dict[str, str]:
        """Digest of each question by its id; one after another question is one of its own."""
        return {s.id: self._digest(s) for s in (*self.samples, *self.held_out)}

    def _digest(self, sample: Sample) -> str:
        own, before = sample_digest(sample), self.before.get(sample.id)
        return own if before is None else digest([own, sample_digest(before)])


def choose_questions(
    listed: Sequence[Sample], *, turn: int = 1, held_out: float | None = None, limit: int | None
) -> Asked:
    """Choose the questions of a setup.

    Parameters
    ----------
    listed
        All questions of its benchmark.
    turn
        Of the setup.
    held_out
        Share of the videos to solve budgets on; None: no budget is solved.
    limit
        At most so many questions of those that are left; None: all.

    Raises
    ------
    ConfigError
        If none is left, or the videos cannot be parted.
    """
    samples = list(listed)
    # Of all questions: a limit is no reason to ask another one before.
    before = before_each(samples) if turn > 1 else {}
    if turn > 1:
        samples = [sample for sample in samples if sample.id in before]
        if not samples:
            raise ConfigError(
                "no clip of the benchmark has two questions: a second turn needs a first one."
            )
    alone = len(listed) - len(samples)
    apart: list[Sample] = []
    if held_out is not None:
        apart, samples = slice_of(samples, held_out)
    if limit is not None:
        samples = spread(samples, limit)
    return Asked(tuple(samples), tuple(apart), before, alone)


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
