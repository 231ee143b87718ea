"""Which questions a setup asks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from tokenreduce.ablations.questions import choose_questions, list_questions
from tokenreduce.benchmark import Benchmark, Progress, Sample
from tokenreduce.errors import ConfigError

SAMPLES = [
    Sample(
        id=f"v{video}q{number}", video=Path(f"v{video}.mp4"), question="?", answer="a", category="c"
    )
    for video in range(4)
    for number in range(video + 1)
]


class Empty(Benchmark):
    """Has no question."""

    name: ClassVar[str] = "empty"

    def samples(self, progress: Progress | None = None) -> list[Sample]:
        return []


def ids(samples: tuple[Sample, ...]) -> list[str]:
    return [sample.id for sample in samples]


def test_a_benchmark_without_questions_is_an_error() -> None:
    with pytest.raises(ConfigError, match="benchmark 'empty' has no question"):
        list_questions(Empty())


def test_a_limit_changes_no_question_that_is_asked_before_another() -> None:
    asked = choose_questions(SAMPLES, turn=2, limit=3)
    assert ids(asked.samples) == ["v1q0", "v2q1", "v3q1"]
    assert [asked.before[name].id for name in ids(asked.samples)] == ["v1q1", "v2q0", "v3q0"]
    assert asked.alone == 1


def test_a_limit_is_of_the_questions_that_are_not_held_out() -> None:
    asked = choose_questions(SAMPLES, held_out=0.25, limit=4)
    (video,) = {sample.video for sample in asked.held_out}
    assert len(asked.held_out) == sum(sample.video == video for sample in SAMPLES)
    assert len(asked.samples) == 4
    assert video not in {sample.video for sample in asked.samples}


def test_a_question_after_another_one_is_a_question_of_its_own() -> None:
    first = choose_questions(SAMPLES, turn=1, limit=None).digests
    second = choose_questions(SAMPLES, turn=2, limit=None).digests
    assert set(second) == set(first) - {"v0q0"}
    assert set(second.values()).isdisjoint(first.values())
    changed = [replace(s, question="!") if s.id == "v3q0" else s for s in SAMPLES]
    other = choose_questions(changed, turn=2, limit=None).digests
    assert {name for name in other if other[name] != second[name]} == {"v3q0", "v3q1"}
