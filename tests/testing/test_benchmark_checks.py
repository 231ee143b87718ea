"""Each check catches a broken benchmark, and it alone does."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ConfigDict, Field

from tokenreduce.benchmark import Benchmark, Progress, Sample
from tokenreduce.errors import ConformanceError
from tokenreduce.testing import check_benchmark, write_clip
from tokenreduce.testing.kit import BENCHMARK_CHECKS, failures


class Sound(Benchmark):
    """Eight questions about one clip."""

    name: ClassVar[str] = "sound"
    folder: Path = Field(description="where the clip is")

    def samples(self, progress: Progress | None = None) -> list[Sample]:
        if progress is not None:
            progress(0, 1, "looking")
            progress(1, 1, "looking")
        clip = self.folder / "clip.mp4"
        return [Sample(str(n), clip, f"what is {n} ?", f"it is {n}", "any") for n in range(8)]


class Forgetful(Sound):
    secret: int = Field(1, exclude=True, description="is not written")


class Assignable(Sound):
    model_config = ConfigDict(frozen=False)


class Lenient(Sound):
    model_config = ConfigDict(extra="ignore")


class Untyped(Sound):
    anything: Any = Field(None, description="anything goes")


class Repeats(Sound):
    def samples(self, progress: Progress | None = None) -> list[Sample]:
        return [replace(each, id="1") for each in super().samples(progress)]


class Shuffles(Sound):
    def samples(self, progress: Progress | None = None) -> list[Sample]:
        found = super().samples(progress)
        random.shuffle(found)
        return found


class NoSuchClip(Sound):
    def samples(self, progress: Progress | None = None) -> list[Sample]:
        return [replace(s, video=self.folder / "gone.mp4") for s in super().samples(progress)]


class NoVideo(Sound):
    def samples(self, progress: Progress | None = None) -> list[Sample]:
        return [replace(s, video=self.folder / "text.mp4") for s in super().samples(progress)]


class NeverRight(Sound):
    def matches(self, sample: Sample, prediction: str) -> bool:
        return False


class Generous(Sound):
    def matches(self, sample: Sample, prediction: str) -> bool:
        return sample.answer.startswith(prediction)


class GoesBack(Sound):
    def samples(self, progress: Progress | None = None) -> list[Sample]:
        if progress is not None:
            progress(1, 1, "looking")
        return super().samples(progress)


BROKEN: dict[str, list[type[Sound]]] = {
    "schema_round_trip": [Forgetful],
    "frozen": [Assignable],
    "unknown_settings_are_refused": [Lenient],
    "nonsense_is_refused": [Untyped],
    "questions_are_complete": [Repeats],
    "questions_are_the_same_every_time": [Shuffles],
    "videos_are_there": [NoSuchClip, NoVideo],
    "right_answers_are_right": [NeverRight],
    "wrong_answers_are_wrong": [Generous],
    "progress_goes_forward": [GoesBack],
}
CASES = [(check, cls) for check, classes in BROKEN.items() for cls in classes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("clips")
    write_clip(made / "clip.mp4")
    (made / "text.mp4").write_text("no video")
    return made


def make(cls: type[Sound], folder: Path) -> Sound:
    more = {"secret": 2} if cls is Forgetful else {}
    return cls(folder=folder, **more)


def test_every_check_has_its_broken_benchmark() -> None:
    assert [check.name for check in BENCHMARK_CHECKS] == list(BROKEN)


@pytest.mark.parametrize(("check", "cls"), CASES, ids=[cls.__name__ for _, cls in CASES])
def test_each_check_alone_catches_its_broken_benchmark(
    folder: Path, check: str, cls: type[Sound]
) -> None:
    random.seed(0)
    assert [failure.check for failure in failures(make(cls, folder))] == [check]


def test_what_is_sound_passes_and_what_is_not_is_listed(folder: Path) -> None:
    check_benchmark(Sound(folder=folder))
    with pytest.raises(ConformanceError, match="'sound' fails 1 of 10 checks:\n  frozen: 'folder'"):
        check_benchmark(Assignable(folder=folder))
