"""The benchmark `jsonl`: questions of your own about videos of your own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from tokenreduce.benchmark import Benchmark, Progress, Sample
from tokenreduce.errors import ConfigError
from tokenreduce.jsonl.lines import Fault
from tokenreduce.jsonl.matching import RULES, chosen
from tokenreduce.jsonl.questions import Format, Questions, read_questions

SHOWN = 20
"""Faults that are listed where a run was asked for."""


def _asks(prompt: str) -> str:
    if "{question}" not in prompt:
        raise ValueError("it must say where the {question} goes")
    return prompt


def _asks_with_options(prompt: str) -> str:
    if "{options}" not in prompt:
        raise ValueError("it must say where the {options} go")
    return _asks(prompt)


class JsonlBenchmark(Benchmark):
    """Questions of your own about videos of your own: a file with one JSON object a line."""

    name: ClassVar[str] = "jsonl"
    shorthand: ClassVar[str] = "file"

    file: Path = Field(description="the questions; paths in it are relative to its folder")
    match: Literal["words", "exact", "contains", "number"] = Field(
        "words", description="when an open answer is right; questions with options have their own"
    )
    allow_outside: bool = Field(
        False, description="whether videos may lie outside the folder of the file"
    )
    choice_prompt: Annotated[str, AfterValidator(_asks_with_options)] = Field(
        "{question}\n{options}\nAnswer with the option's letter only.",
        description="how a question with options is put, which stand on a line each",
    )
    open_prompt: Annotated[str, AfterValidator(_asks)] = Field(
        "{question}", description="how a question without options is put"
    )

    def read(self) -> Questions:
        """Return the questions and what is wrong with others; no video is opened.

        Raises
        ------
        ConfigError
            If the file cannot be read.
        """
        form = Format(self.match, self.choice_prompt, self.open_prompt, self.allow_outside)
        return read_questions(self.file, form)

    def samples(self, progress: Progress | None = None) -> list[Sample]:
        """Return the questions in the order of the file.

        Raises
        ------
        ConfigError
            If anything is wrong with any line, or there is no question.
        """
        found = self.read()
        check(self.file, found.faults, limit=SHOWN)
        if not found.samples:
            raise ConfigError(f"'{self.file}' holds no question: write one JSON object a line.")
        return found.samples

    def matches(self, sample: Sample, prediction: str) -> bool:
        """Return whether an answer is right: by the sample's options, or else by the rule."""
        if sample.options:
            return chosen(sample.options, prediction) == sample.answer
        return RULES[self.match](sample.answer, prediction)


def check(file: Path, faults: Iterable[Fault], limit: int | None = None) -> None:
    """Raise :class:`ConfigError` with a line for each fault, if there is one.

    Parameters
    ----------
    file
        Where they are.
    faults
        In any order.
    limit
        Most to list.
    """
    listed = sorted(faults)
    if not listed:
        return
    count = f"{len(listed)} faults" if len(listed) > 1 else "1 fault"
    lines = [f"  {fault}" for fault in listed[:limit]]
    if len(lines) < len(listed):
        lines.append(f"  and {len(listed) - len(lines)} more: `tokenreduce validate` lists all.")
    raise ConfigError("\n".join([f"{count} in '{file}':", *lines]))
