"""The functions of a task that :mod:`tokenreduce.lmms.export` wrote; lmms-eval calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tokenreduce.benchmark import Sample

if TYPE_CHECKING:
    from tokenreduce.benchmark import Benchmark

Doc = Mapping[str, Any]
"""A question as it stands in the task's file, one JSON object a line."""


def doc_of(sample: Sample) -> dict[str, Any]:
    """Return a question as it stands in the task's file; the path of its video is absolute."""
    options = [{"label": label, "text": text} for label, text in sample.options]
    return {**asdict(sample), "video": str(sample.video.resolve()), "options": options}


def sample_of(doc: Doc) -> Sample:
    """Return the question that :func:`doc_of` wrote."""
    options = tuple((option["label"], option["text"]) for option in doc["options"] or ())
    return Sample(**{**doc, "video": Path(doc["video"]), "options": options})


class ExportedTask:
    """A benchmark of ours as a task of lmms-eval.

    Parameters
    ----------
    benchmark
        As it would stand in YAML.

    Raises
    ------
    ConfigError
        If there is no such benchmark here: it came with a plugin that is not installed.
    """

    def __init__(self, benchmark: Mapping[str, Any]) -> None:
        self._written = benchmark
        self._made: Benchmark | None = None

    @property
    def benchmark(self) -> Benchmark:
        """The benchmark, which says when an answer is right."""
        if self._made is None:
            self._made = parse(self._written)
        return self._made

    def doc_to_messages(self, doc: Doc) -> list[dict[str, Any]]:
        """Return the question for chat models."""
        video = {"type": "video", "url": doc["video"], "nframes": doc["frames"]}
        part = {"start_time": doc["start"], "end_time": doc["end"]}
        asked = {"type": "text", "text": doc["question"]}
        return [{"role": "user", "content": [{**video, **part}, asked]}]

    def doc_to_visual(self, doc: Doc) -> list[str]:
        """Return the video, for models that take it apart from the question."""
        return [doc["video"]]

    def doc_to_text(self, doc: Doc, lmms_eval_specific_kwargs: Any = None) -> str:
        """Return the question; prompts of single models are not changed."""
        return str(doc["question"])

    def doc_to_target(self, doc: Doc) -> str:
        """Return the right answer."""
        return str(doc["answer"])

    def process_results(self, doc: Doc, results: Sequence[str]) -> dict[str, float]:
        """Return whether an answer is right, by the benchmark's own rule."""
        return {"acc": float(self.benchmark.matches(sample_of(doc), results[0]))}


def parse(written: Mapping[str, Any]) -> Benchmark:
    """Return the benchmark that stands in YAML as ``written``.

    Raises
    ------
    ConfigError
        If its name or its settings are wrong.
    """
    from tokenreduce.config import Classes, parse_benchmark
    from tokenreduce.plugins import load_plugins
    from tokenreduce.problems import Report

    registry, report = load_plugins().registry, Report()
    made = parse_benchmark(dict(written), Classes(registry.reducers, registry.benchmarks), report)
    report.raise_if_any("the benchmark of the task")
    return cast("Benchmark", made)
