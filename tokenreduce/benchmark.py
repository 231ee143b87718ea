"""The benchmark interface: questions about video files, and when an answer counts as right."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what is being done)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about one video.

    Attributes
    ----------
    id
        Unique within the benchmark.
    video
        File to decode.
    question
        As it is put to the model.
    answer
        The right answer.
    category
        Group that accuracy is also reported for.
    frames
        Frames to sample; None leaves it to the run.
    start, end
        Seconds of the part of the video that is sampled; None: from its beginning, to its end.
    options
        Label and text of each choice, where the answer is the label of one of them.
    """

    id: str
    video: Path
    question: str
    answer: str
    category: str
    frames: int | None = None
    start: float | None = None
    end: float | None = None
    options: tuple[tuple[str, str], ...] = ()


class Benchmark(BaseModel, ABC):
    """A set of questions. Its fields are its configuration; it keeps no state.

    A subclass sets ``name`` (its name in YAML) and writes :meth:`samples`. If it sets
    ``shorthand`` to one of its settings, ``NAME:VALUE`` in a configuration means that setting.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    shorthand: ClassVar[str | None] = None

    @abstractmethod
    def samples(self, progress: Progress | None = None) -> list[Sample]:
        """Return all questions, making or finding the files they need.

        Parameters
        ----------
        progress
            Told about long work, such as rendering clips on first use.
        """

    def matches(self, sample: Sample, prediction: str) -> bool:
        """Return whether ``prediction`` counts as right: equal words, whatever the case."""
        return prediction.strip().lower() == sample.answer.strip().lower()
