"""One question of a benchmark, asked and timed in every row of a comparison."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenreduce.errors import TokenReduceError
from tokenreduce.inference import EncodedVideo, Loaded, answer, first_token
from tokenreduce.measure import peak_memory, time_to_first_token
from tokenreduce.store import SampleRecord
from tokenreduce.video import Video, load_video

if TYPE_CHECKING:
    from tokenreduce.benchmark import Benchmark, Sample
    from tokenreduce.cells import Reducers

TIMED_REPEATS = 3


class Clip:
    """A video that is decoded when it is first needed; a broken one fails every question."""

    def __init__(self, loaded: Loaded, path: Path, frames: int) -> None:
        self._loaded, self._path, self._frames = loaded, path, frames
        self._opened: tuple[Video, EncodedVideo] | Exception | None = None

    def open(self) -> tuple[Video, EncodedVideo]:
        """Decode the file, at the first call; raise what was raised then at every later one."""
        if self._opened is None:
            try:
                rule = self._loaded.checkpoint.processor.sampling
                video = load_video(self._path, self._frames, rule)
                self._opened = video, EncodedVideo(self._loaded, video.frames, video.timestamps)
            except Exception as error:  # kept, so that a broken file is opened once
                self._opened = error
        if isinstance(self._opened, Exception):
            raise self._opened
        return self._opened


class Question:
    """One sample under one seed: asked in every row, then timed."""

    def __init__(
        self, loaded: Loaded, rows: Reducers, sample: Sample, seed: int, video: Clip
    ) -> None:
        self._loaded, self._rows, self._sample, self._seed = loaded, rows, sample, seed
        self._video = video
        self._inputs: dict[str, Any] = {}

    def records(self, benchmark: Benchmark, max_new_tokens: int) -> list[SampleRecord]:
        """Ask in every row; what fails is a record that says why."""
        sample = self._sample
        blanks = [
            SampleRecord(label, self._seed, sample.id, sample.category, sample.answer)
            for label in self._rows
        ]
        try:
            video, encoded = self._video.open()
            self._inputs = encoded.inputs(sample.question)
        except Exception as error:
            return [replace(blank, error=reason(error)) for blank in blanks]
        blanks = [
            replace(blank, bad_packets=video.bad_packets, inexact=video.inexact) for blank in blanks
        ]
        return [self._ask(blank, benchmark, max_new_tokens) for blank in blanks]

    def timed(self, records: Sequence[SampleRecord], watch: Collection[str]) -> list[SampleRecord]:
        """Time the rows that answered, in turns; then measure the memory of those in ``watch``."""
        answered = [record.label for record in records if record.error is None]
        calls = {
            label: first_token(self._loaded, self._inputs, self._rows[label], seed=self._seed)
            for label in answered
        }
        device = self._loaded.device
        try:
            times = time_to_first_token(calls, repeats=TIMED_REPEATS, device=device)
            peaks = {label: peak_memory(calls[label], device) for label in calls if label in watch}
        except Exception as error:
            failed = f"while it was timed: {reason(error)}"
            return [r if r.error else replace(r, error=failed) for r in records]
        full = times.get(next(iter(self._rows)))
        return [
            replace(
                record,
                ttft_ms=times[record.label].median * 1000,
                ttft_full_ms=full.median * 1000 if full else None,
                peak_memory_bytes=peaks.get(record.label),
            )
            if record.label in times
            else record
            for record in records
        ]

    def _ask(self, blank: SampleRecord, benchmark: Benchmark, tokens: int) -> SampleRecord:
        reducers = self._rows[blank.label]
        try:
            said = answer(
                self._loaded, self._inputs, reducers, seed=self._seed, max_new_tokens=tokens
            )
            return replace(
                blank,
                prediction=said.text,
                correct=benchmark.matches(self._sample, said.text),
                img_memory=said.trace.img_memory,
                flops_ratio=said.trace.flops_ratio,
                tokens_per_layer=said.trace.tokens_per_layer[0],
            )
        except Exception as error:  # one sample's failure is a result, not the end of the run
            return replace(blank, error=reason(error))


def reason(error: Exception, limit: int = 300) -> str:
    """Return one line on why a sample failed."""
    text = " ".join(str(error).split())
    line = text if isinstance(error, TokenReduceError) else f"{type(error).__name__}: {text}"
    return line if len(line) <= limit else line[: limit - 3] + "..."
