"""The benchmark `msvd_qa`: MSVD-QA as it was published, from a folder on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from tokenreduce.benchmark import Benchmark, Progress, Sample
from tokenreduce.errors import ConfigError
from tokenreduce.jsonl.matching import RULES

MAPPING = "youtube_mapping.txt"
FOLDERS = ("YouTubeClips", "videos", "video", ".")
ENDINGS = (".avi", ".mp4", ".mkv", ".webm")
PLAIN_RULE = "contains"
"""Name of the matching rule of open answers that no judge scores."""


class MsvdQa(Benchmark):
    """MSVD-QA: open questions on short YouTube clips, right where the answer's words are said.

    Published answers are one word each and papers score free answers by a GPT model. Here the rule
    is a plain one, without a key: the answer's words stand in the prediction. Categories name the
    question word and the rule.
    """

    name: ClassVar[str] = "msvd_qa"
    shorthand: ClassVar[str] = "folder"

    folder: Path = Field(
        description="has SPLIT_qa.json, youtube_mapping.txt and the clips, in YouTubeClips/"
    )
    split: Literal["test", "val", "train"] = Field("test", description="13,157 questions are test")
    prompt: str = Field(
        "{question}\nAnswer with one word.", description="how the {question} is put"
    )

    def samples(self, progress: Progress | None = None) -> list[Sample]:
        """Return the questions in the order of the annotations.

        Raises
        ------
        ConfigError
            If a file is missing or of another layout, or clips are missing.
        """
        file = self.folder / f"{self.split}_qa.json"
        names, clips = _mapping(self.folder / MAPPING), _clips(self.folder)
        samples, lost = [], []
        for number, entry in enumerate(_annotations(file)):
            try:
                video, found = str(entry["video_id"]), entry["id"]
                name = names.get(video.removeprefix("vid"), video)
                asked, answer = str(entry["question"]), str(entry["answer"])
            except (KeyError, TypeError) as error:
                raise ConfigError(
                    f"'{file}': entry {number} is {entry!r}: it needs id, video_id, question and "
                    "answer, as the published annotations have."
                ) from error
            if name not in clips:
                lost.append(name)
                continue
            samples.append(self._sample(str(found), clips[name], asked, answer))
        _require(samples, lost, self.folder)
        return samples

    def matches(self, sample: Sample, prediction: str) -> bool:
        """Return whether the answer's words stand side by side in the prediction."""
        return RULES[PLAIN_RULE](sample.answer, prediction)

    def _sample(self, number: str, clip: Path, asked: str, answer: str) -> Sample:
        word = asked.split(maxsplit=1)[0].lower() if asked.strip() else "other"
        category = word if word in ("what", "who", "how", "when", "where") else "other"
        question = self.prompt.replace("{question}", asked)
        return Sample(
            f"{self.split}-{number}", clip, question, answer, f"{category} (rule: {PLAIN_RULE})"
        )


def _annotations(file: Path) -> list[Any]:
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"'{file}' cannot be read ({said}): give the folder of MSVD-QA's annotations."
        ) from error
    if not isinstance(entries, list):
        raise ConfigError(f"'{file}' holds {type(entries).__name__}: MSVD-QA's file is a list.")
    return entries


def _mapping(file: Path) -> Mapping[str, str]:
    """Return the name of the clip of each number: lines are ``NAME vidNUMBER``."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"'{file}' cannot be read ({error}): it says which clip each video_id is, and comes "
            "with MSVD-QA's annotations."
        ) from error
    pairs = [line.split() for line in lines if line.strip()]
    if any(len(pair) != 2 or not pair[1].startswith("vid") for pair in pairs):
        raise ConfigError(f"'{file}': each line is to be 'NAME vidNUMBER'.")
    return {number.removeprefix("vid"): name for name, number in pairs}


def _clips(folder: Path) -> Mapping[str, Path]:
    """Return the clips by name, from the first folder that has any."""
    for below in FOLDERS:
        here = folder / below
        if here.is_dir():
            files = sorted(path for path in here.iterdir() if path.suffix.lower() in ENDINGS)
            if files:
                return {path.stem: path for path in files}
    return {}


def _require(samples: list[Sample], lost: list[str], folder: Path) -> None:
    if lost:
        raise ConfigError(
            f"{len(set(lost))} clips are not in '{folder}' or its YouTubeClips, the first is "
            f"'{lost[0]}': download them all; a part of the questions is no MSVD-QA."
        )
    if not samples:
        raise ConfigError(f"the annotations in '{folder}' hold no question.")
