"""Questions from the lines of a file, and everything that is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from tokenreduce.benchmark import Sample
from tokenreduce.jsonl.lines import Fault, read_lines
from tokenreduce.jsonl.matching import unusable, with_text
from tokenreduce.problems import Report, build, shown

NO_CATEGORY = "all"
"""Category of the questions that name none."""


def _usable(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty")
    if "\0" in text:
        raise ValueError("it holds a NUL character")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("it holds half a character (a lone surrogate)")
    return text


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it holds a character that cannot be printed")
    return text


Text = Annotated[str, AfterValidator(_usable)]
Name = Annotated[Text, AfterValidator(_printable)]
Pairs = tuple[tuple[str, str], ...]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _kind(value: object) -> str:
    return "mapping" if isinstance(value, dict) else "list"


# Told apart by their kind: what is wrong with a list is not that it is no mapping.
Options = Annotated[
    Annotated[list[Text], Tag("list")] | Annotated[dict[Text, Text], Tag("mapping")],
    Discriminator(_kind),
]


class Line(BaseModel):
    """What one line may hold, in JSON's own types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    video: Text
    question: Text
    answer: Text | int | Annotated[float, Field(allow_inf_nan=False)]
    options: Options | None = None
    category: Name = NO_CATEGORY
    start: Seconds | None = None
    end: Seconds | None = None
    id: Name | int | None = None


@dataclass(frozen=True, slots=True)
class Format:
    """How lines become questions; see the settings of :class:`JsonlBenchmark`."""

    match: str
    choice_prompt: str
    open_prompt: str
    allow_outside: bool


@dataclass(frozen=True, slots=True)
class Clip:
    """What a line shows of a video, whatever else is wrong with the line."""

    line: int
    video: Path
    start: float | None
    end: float | None


@dataclass(slots=True)
class Questions:
    """What a file holds.

    Attributes
    ----------
    samples
        The questions of the lines without fault.
    faults
        What is wrong with the others.
    clips
        Videos that are there.
    """

    samples: list[Sample] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    clips: list[Clip] = field(default_factory=list)


def read_questions(file: Path, form: Format) -> Questions:
    """Read a file whole; no video is opened.

    Raises
    ------
    ConfigError
        If the file cannot be read.
    """
    reader = _Reader(file, form)
    for number, values in read_lines(file):
        if isinstance(values, Fault):
            reader.found.faults.append(values)
        else:
            reader.add(number, values)
    return reader.found


class _Reader:
    """Reads line after line; knows the ids and videos of those before."""

    def __init__(self, file: Path, form: Format) -> None:
        self.found = Questions()
        self._form, self._folder = form, file.parent
        self._lines_of_ids: dict[str, int] = {}
        self._videos: dict[str, Path | str] = {}

    def add(self, number: int, values: Mapping[str, Any]) -> None:
        """Keep what is right with a line, and everything that is wrong with it."""
        report = Report()
        line = build(Line, values, (), report)
        wrong = {problem.path[0] for problem in report.problems if problem.path}
        # What is right in itself is looked at, whatever is wrong beside it.
        sound = {name: value for name, value in values.items() if name not in wrong}
        self._add_clip(number, sound, report)
        options = _options(sound.get("options"), report)
        answer = ""
        if "answer" in sound and not report.has("options"):
            answer = self._answer(str(sound["answer"]), options, report)
        if "id" not in wrong:
            self._check_id(_id(sound.get("id"), number), number, report)
        self.found.faults += [Fault(number, str(problem)) for problem in report.problems]
        if line is not None and not report.problems:
            self._add_sample(number, line, answer, options)

    def _add_clip(self, number: int, sound: Mapping[str, Any], report: Report) -> None:
        video = self._video(sound["video"], report) if "video" in sound else None
        start, end = sound.get("start"), sound.get("end")
        if start is not None and end is not None and start >= end:
            report.add(("end",), f"{end:g} s is not after start, {start:g} s.")
        elif video is not None:
            self.found.clips.append(Clip(number, video, start, end))

    def _video(self, name: str, report: Report) -> Path | None:
        if name not in self._videos:
            self._videos[name] = _located(name, self._folder, self._form.allow_outside)
        video = self._videos[name]
        if isinstance(video, str):
            report.add(("video",), video)
            return None
        return video

    def _check_id(self, name: str, number: int, report: Report) -> None:
        first = self._lines_of_ids.setdefault(name, number)
        if first != number:
            report.add(("id",), f"{shown(name)} is that of line {first} as well.")

    def _answer(self, answer: str, options: Pairs, report: Report) -> str:
        if options:
            return _label(options, answer, report)
        if why := unusable(self._form.match, answer):
            report.add(("answer",), why)
        return answer

    def _add_sample(self, number: int, line: Line, answer: str, options: Pairs) -> None:
        prompt = self._form.choice_prompt if options else self._form.open_prompt
        written = "\n".join(f"{label}. {text}" for label, text in options)
        self.found.samples.append(
            Sample(
                id=_id(line.id, number),
                video=self.found.clips[-1].video,
                question=filled(prompt, question=line.question, options=written),
                answer=answer,
                category=line.category,
                start=line.start,
                end=line.end,
                options=options,
            )
        )


def filled(prompt: str, **parts: str) -> str:
    """Return a prompt with each ``{part}`` put in; braces in the parts mean nothing."""
    names = "|".join(parts)
    return re.sub(rf"\{{({names})\}}", lambda found: parts[found[1]], prompt)


def _id(given: str | int | None, number: int) -> str:
    return str(number if given is None else given)


def _located(name: str, folder: Path, allow_outside: bool) -> Path | str:
    """Return the file that a line names, or what is wrong with it."""
    try:
        video = (folder / name).resolve()
        if not allow_outside and not video.is_relative_to(folder.resolve()):
            return (
                f"{shown(name)} is outside the folder of this file: move it there, or set "
                "allow_outside=true."
            )
        if video.is_file():
            return video
        what = "is not a regular file" if video.exists() else "is not there"
        return f"{shown(name)} {what}: paths are relative to the folder of this file."
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links is a RuntimeError
        return f"{shown(name)} cannot be looked up ({getattr(error, 'strerror', None) or error})."


def _options(given: list[str] | dict[str, str] | None, report: Report) -> Pairs:
    if given is None:
        return ()
    if isinstance(given, dict):
        options = tuple(given.items())
    else:
        options = tuple(zip(ascii_uppercase, given, strict=False))
    for problem in _wrong_options(len(given), options):
        report.add(("options",), problem)
    return options


def _wrong_options(given: int, options: Pairs) -> Iterator[str]:
    count = len(options)
    if given < 2:
        yield "fewer than two leave no choice: give two or more, or leave them out."
    if count < given:
        yield f"{given} are more than there are letters: give a mapping from labels to texts."
    labels = [label for label, _ in options]
    for label in labels:
        if not re.fullmatch(r"[^\W_]{1,8}", label):
            yield f"the label {shown(label)} is not of 1 to 8 letters and digits."
    if len({label.casefold() for label in labels}) < count:
        yield f"the labels {', '.join(labels)} differ by their case only."
    texts = [text.strip().casefold() for _, text in options]
    if len(set(texts)) < count:
        yield "two have the same text."


def _label(options: Pairs, answer: str, report: Report) -> str:
    """Return the label of the right option, which the answer names by label or by text."""
    said = answer.strip().casefold()
    by_label = [label for label, _ in options if label.casefold() == said]
    found = sorted({*by_label, *with_text(options, answer)})
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{label} ({shown(text, 30)})" for label, text in options)
    if found:
        report.add(("answer",), f"{shown(answer)} names {' and '.join(found)}: give other labels.")
    else:
        report.add(("answer",), f"{shown(answer)} is neither label nor text of {known}.")
    return answer
