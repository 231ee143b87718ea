"""Everything that is wrong with a benchmark of your own, before any model is loaded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from tokenreduce.errors import ConfigError, VideoError
from tokenreduce.jsonl.benchmark import JsonlBenchmark, check
from tokenreduce.jsonl.lines import Fault
from tokenreduce.video import Inspection, inspect_video

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tokenreduce.benchmark import Progress, Sample
    from tokenreduce.jsonl.questions import Clip


@dataclass(frozen=True, slots=True)
class Summary:
    """What a sound file holds.

    Attributes
    ----------
    questions, videos
        How many.
    choices
        How many of the questions have options.
    categories
        Questions of each.
    seconds
        Length of all videos.
    notes
        On videos that are damaged and can be used all the same.
    """

    questions: int
    videos: int
    choices: int
    categories: dict[str, int]
    seconds: float
    notes: tuple[str, ...]


def validate(benchmark: JsonlBenchmark, progress: Progress | None = None) -> Summary:
    """Check every line, and open every video.

    Parameters
    ----------
    benchmark
        The file and its settings.
    progress
        Told after every video.

    Raises
    ------
    ConfigError
        If anything is wrong; all of it is listed, by line.
    """
    found = benchmark.read()
    clips = sorted(found.clips, key=lambda clip: clip.video)
    videos = [(video, list(group)) for video, group in groupby(clips, key=lambda clip: clip.video)]
    faults, seconds, notes = list(found.faults), 0.0, []
    for done, (video, shown) in enumerate(videos, start=1):
        try:
            inspected = inspect_video(video)
        except VideoError as error:
            faults += [Fault(clip.line, f"video: {error}") for clip in shown]
        else:
            faults += _outside(inspected, shown)
            seconds += inspected.seconds
            if inspected.bad_packets:
                notes.append(f"{video}: {inspected.bad_packets} packets are missing or broken.")
        if progress is not None:
            progress(done, len(videos), "opening videos")
    check(benchmark.file, faults)
    if not found.samples:
        raise ConfigError(f"'{benchmark.file}' holds no question: write one JSON object a line.")
    return _summary(found.samples, len(videos), seconds, notes)


def _outside(inspected: Inspection, clips: Iterable[Clip]) -> Iterator[Fault]:
    for clip in clips:
        try:
            inspected.check_part(clip.start, clip.end)
        except VideoError as error:
            yield Fault(clip.line, f"video: {error}")


def _summary(samples: list[Sample], videos: int, seconds: float, notes: list[str]) -> Summary:
    return Summary(
        questions=len(samples),
        videos=videos,
        choices=sum(bool(sample.options) for sample in samples),
        categories=dict(Counter(sample.category for sample in samples)),
        seconds=seconds,
        notes=tuple(notes),
    )
