"""MSVD-QA is read as it was published, and what is missing is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tokenreduce.benchmark import Sample
from tokenreduce.errors import ConfigError
from tokenreduce.lmms.msvd_qa import MsvdQa
from tokenreduce.testing import benchmark_checks, write_clip

ENTRIES = [
    {"answer": "woman", "id": 30933, "question": "who slices the onion?", "video_id": 1201},
    {"answer": "onion", "id": 30934, "question": "what is a woman slicing?", "video_id": 1201},
    {"answer": "two", "id": 30935, "question": "how many men are there?", "video_id": 1202},
]
NAMES = {1201: "a_b-C9_10_20", 1202: "zZ_1_5"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return published(tmp_path / "MSVD-QA")


def published(folder: Path, clips: str = "YouTubeClips", ending: str = ".avi") -> Path:
    """Write a data set of the published layout."""
    (folder / clips).mkdir(parents=True, exist_ok=True)
    (folder / "test_qa.json").write_text(json.dumps(ENTRIES))
    lines = [f"{name} vid{number}" for number, name in NAMES.items()]
    (folder / "youtube_mapping.txt").write_text("\n".join([*lines, "gone_1_2 vid1970", ""]))
    for name in NAMES.values():
        write_clip(folder / clips / f"{name}{ending}")
    return folder


def test_questions(folder: Path) -> None:
    clips = folder / "YouTubeClips"
    assert MsvdQa(folder=folder).samples() == [
        Sample(
            "test-30933",
            clips / "a_b-C9_10_20.avi",
            "who slices the onion?\nAnswer with one word.",
            "woman",
            "who (rule: contains)",
        ),
        Sample(
            "test-30934",
            clips / "a_b-C9_10_20.avi",
            "what is a woman slicing?\nAnswer with one word.",
            "onion",
            "what (rule: contains)",
        ),
        Sample(
            "test-30935",
            clips / "zZ_1_5.avi",
            "how many men are there?\nAnswer with one word.",
            "two",
            "how (rule: contains)",
        ),
    ]


@pytest.mark.parametrize(("clips", "ending"), [("videos", ".mp4"), (".", ".mkv")])
def test_clips_may_lie_elsewhere(tmp_path: Path, clips: str, ending: str) -> None:
    found = MsvdQa(folder=published(tmp_path / "data", clips, ending)).samples()
    assert [sample.video.suffix for sample in found] == [ending] * 3


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("woman", True),
        ("A woman.", True),
        ("It is the Woman who slices", True),
        ("women", False),
        ("a man", False),
        ("", False),
    ],
)
def test_an_answer_is_right_where_its_words_are_said(folder: Path, said: str, right: bool) -> None:
    benchmark = MsvdQa(folder=folder)
    assert benchmark.matches(benchmark.samples()[0], said) is right


def test_it_keeps_to_the_benchmark_interface(folder: Path) -> None:
    for check in benchmark_checks.BENCHMARK_CHECKS:
        if check.applies(MsvdQa(folder=folder)):
            check.function(MsvdQa(folder=folder))


def spoilt(folder: Path, name: str, content: str | None) -> None:
    file = folder / name
    if content is None:
        file.unlink()
    else:
        file.write_text(content)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("test_qa.json", None, "test_qa.json' cannot be read"),
        ("test_qa.json", "{", "test_qa.json' cannot be read"),
        ("test_qa.json", "{}", "holds dict"),
        ("test_qa.json", "[]", "hold no question"),
        ("test_qa.json", '[{"id": 1, "question": "q?", "answer": "a"}]', "entry 0 is .* video_id"),
        ("test_qa.json", "[3]", "entry 0 is 3"),
        ("youtube_mapping.txt", None, "says which clip each video_id is"),
        ("youtube_mapping.txt", "only_a_name\n", "each line is to be 'NAME vidNUMBER'"),
        ("YouTubeClips/zZ_1_5.avi", None, "1 clips are not in .* the first is 'zZ_1_5'"),
    ],
)
def test_what_is_wrong_with_a_folder(
    folder: Path, name: str, content: str | None, said: str
) -> None:
    spoilt(folder, name, content)
    with pytest.raises(ConfigError, match=said):
        MsvdQa(folder=folder).samples()


def test_other_splits_have_files_of_their_own(folder: Path) -> None:
    (folder / "test_qa.json").rename(folder / "val_qa.json")
    samples: list[Any] = MsvdQa(folder=folder, split="val").samples()
    assert [sample.id for sample in samples] == ["val-30933", "val-30934", "val-30935"]
