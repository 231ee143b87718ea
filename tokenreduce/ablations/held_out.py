"""Which questions budgets are solved on, and which are left for the tables."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tokenreduce.errors import ConfigError
from tokenreduce.schedule import share_count

if TYPE_CHECKING:
    from tokenreduce.benchmark import Sample

Value = TypeVar("Value")

FEWEST_VIDEOS = 4
"""Videos to hold out at least, where there are twice as many."""


def slice_of(
    samples: Sequence[Sample], share: float, seed: int = 0
) -> tuple[list[Sample], list[Sample]]:
    """Return the questions to solve budgets on, and those that tables are made of.

    A video is in one of them only. Videos held out are evenly spread over numbers of frames and
    categories; which ones follows from the seed and the questions' ids.

    Parameters
    ----------
    samples
        All questions.
    share
        Share of the videos to hold out, in (0, 1): at least four where there are eight, and always
        one.
    seed
        Of the choice among videos alike.

    Raises
    ------
    ConfigError
        If the share is outside (0, 1), or all questions are about one video.
    """
    if not 0 < share < 1:
        raise ConfigError(f"budget slice {share} is outside (0, 1): give a share of the videos.")
    by_video: dict[Path, list[Sample]] = {}
    for sample in samples:
        by_video.setdefault(sample.video, []).append(sample)
    if len(by_video) < 2:
        raise ConfigError(
            f"a budget is solved on videos that are not in the table, but there are {len(by_video)}"
            ": give at least two."
        )
    videos = _in_order(by_video, seed)
    count = max(1, share_count(len(videos), share))
    if len(videos) >= 2 * FEWEST_VIDEOS:
        count = max(FEWEST_VIDEOS, count)
    held = set(middles(videos, min(count, len(videos) - 1)))
    return [s for s in samples if s.video in held], [s for s in samples if s.video not in held]


def _in_order(by_video: Mapping[Path, Sequence[Sample]], seed: int) -> list[Path]:
    """Return the videos, those alike next to each other, in an order that no folder's name sets."""

    def place(video: Path) -> tuple[Any, ...]:
        questions = by_video[video]
        name = min(sample.id for sample in questions)
        frames = max(sample.frames or 0 for sample in questions)
        return (
            frames,
            sorted(s.category for s in questions),
            random.Random(f"{seed}/{name}").random(),
        )

    return sorted(by_video, key=place)


def over_videos(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Return at most ``count`` questions about as many videos as can be, in their order.

    Each video gives one, then each a second one, and so on. The first one is another in every
    video: questions about a video come in the order of their categories.

    Parameters
    ----------
    samples
        Questions; those about one video in the same order for every video.
    count
        How many are wanted.
    """
    by_video: dict[Path, list[int]] = {}
    for number, sample in enumerate(samples):
        by_video.setdefault(sample.video, []).append(number)
    turns: list[list[int]] = [[] for _ in range(max(map(len, by_video.values()), default=0))]
    for first, numbers in enumerate(by_video.values()):
        for turn in range(len(numbers)):
            turns[turn].append(numbers[(first + turn) % len(numbers)])
    chosen: list[int] = []
    for numbers in turns:
        chosen += middles(numbers, min(len(numbers), count - len(chosen)))
    return [samples[number] for number in sorted(chosen)]


def middles(values: Sequence[Value], count: int) -> list[Value]:
    """Return the middle one of each of ``count`` equal parts."""
    return [values[len(values) * (2 * part + 1) // (2 * count)] for part in range(count)]
