"""Runs reducers over the questions of a benchmark, or over one clip, and keeps what came out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tokenreduce.asking import TIMED_REPEATS, Clip, Question
from tokenreduce.cells import Reducers, describe, with_baseline
from tokenreduce.errors import ConfigError, TokenReduceError
from tokenreduce.inference import EncodedVideo, Loaded, answer, first_token, load_model
from tokenreduce.measure import time_to_first_token
from tokenreduce.report import Report, build_report
from tokenreduce.store import Store

if TYPE_CHECKING:
    from tokenreduce.benchmark import Benchmark, Progress, Sample
    from tokenreduce.config import CompareConfig
    from tokenreduce.plugins import PluginManager
    from tokenreduce.reducer import Reducer
    from tokenreduce.video import Video

TIMED_SAMPLES = 8


@dataclass(frozen=True, slots=True)
class ClipAnswer:
    """One question about one file, with and without reduction; fields as in the JSON document.

    Attributes
    ----------
    answer, answer_full
        With and without reduction.
    model, adapter
        Which model answered, and the adapter of its family.
    frames
        How many frames it saw.
    tokens_per_layer
        Visual tokens in the cache of each decoder layer, under reduction.
    img_memory
        Their share of the unreduced ones.
    ttft_ms, ttft_full_ms
        Median time from encoded video to first token, in milliseconds.
    video
        The decoded file.
    """

    answer: str
    answer_full: str
    model: str
    adapter: str
    frames: int
    tokens_per_layer: tuple[int, ...]
    img_memory: float
    ttft_ms: float
    ttft_full_ms: float
    video: Video

    def document(self) -> dict[str, Any]:
        """Return the machine-readable document, in JSON types."""
        names = [name for name in self.__slots__ if name != "video"]
        return {name: getattr(self, name) for name in names}


def compare(
    config: CompareConfig,
    plugins: PluginManager,
    progress: Progress | None = None,
    *,
    out: Path | None = None,
) -> Report:
    """Run a whole comparison.

    Failed samples are part of the result; a keyboard interrupt ends the run early and keeps what
    is done (``report.interrupted``).

    Parameters
    ----------
    config
        What to run.
    plugins
        Where adapters are found; its observers are told.
    progress
        Told about every question.
    out
        SQLite file for the results, which must not exist; by default they are not kept.

    Raises
    ------
    ConfigError
        If there is no such model, or a layer does not exist in it.
    AdapterError
        If the model cannot be loaded.
    """
    settings = config.settings
    benchmark = cast("Benchmark", config.benchmark)
    samples = _questions(benchmark, progress)  # before the weights: its files may be missing
    loaded = load_model(
        settings.model,
        plugins.registry.adapters,
        dtype=settings.dtype,
        device=settings.device,
        positions=settings.positions,
        options=settings.model_options,
    )
    rows = with_baseline(cast("Reducers", config.reducers))
    for reducers in rows.values():
        loaded.session(reducers)  # a layer that does not exist is an error of the request
    plugins.notify("run_started", config=config.to_dict(), labels=list(rows))
    cells = [describe(label, reducers) for label, reducers in rows.items()]
    with (
        _results_file(out) as path,
        Store.begin(
            path,
            model=loaded.name,
            benchmark=benchmark.name,
            config=config.to_dict(),
            cells=cells,
        ) as store,
    ):
        interrupted = False
        try:
            run_cells(
                loaded,
                rows,
                benchmark,
                samples,
                store,
                seeds=settings.seeds,
                frames=settings.frames,
                max_new_tokens=settings.max_new_tokens,
                progress=progress,
            )
        except KeyboardInterrupt:
            interrupted = True
        report = build_report(store, interrupted=interrupted)
    if not interrupted:
        for row in report.rows:
            plugins.notify("cell_finished", row=asdict(row))
        plugins.notify("run_finished", document=report.document())
    return report


def run_cells(
    loaded: Loaded,
    rows: Reducers,
    benchmark: Benchmark,
    samples: Sequence[Sample],
    store: Store,
    *,
    seeds: Sequence[int] = (0,),
    frames: int | None = None,
    max_new_tokens: int = 16,
    progress: Progress | None = None,
) -> None:
    """Ask every question under every row's reducers, and add what came out to the store.

    Questions are the outer loop: a video is decoded and encoded once for all rows, and an
    interrupted run has the same questions in each of them.

    Parameters
    ----------
    loaded
        The model.
    rows
        Reducers by label; the first row is the one the others are timed against.
    benchmark
        Says when an answer is right.
    samples
        Its questions; those about one video should follow one another.
    store
        Takes one record per question, row and seed.
    seeds
        Of the reducers' random choices; one pass for each.
    frames
        Frames to sample, whatever the benchmark says.
    max_new_tokens
        Longest answer.
    progress
        Told after every question.
    """
    done = 0
    unwatched = set(rows)  # rows whose memory was not measured yet
    timed = {sample.id for sample in spread(samples, TIMED_SAMPLES)}
    by_video = groupby(samples, key=lambda sample: (sample.video, sample.frames))
    for (path, wanted), questions in by_video:
        video = Clip(loaded, path, frames or wanted or loaded.checkpoint.processor.frames)
        for sample in questions:
            for seed in seeds:
                asked = Question(loaded, rows, sample, seed, video)
                records = asked.records(benchmark, max_new_tokens)
                if sample.id in timed and seed == seeds[0]:
                    records = asked.timed(records, unwatched)
                    unwatched -= {r.label for r in records if r.peak_memory_bytes is not None}
                store.add(records)
            done += 1
            if progress is not None:
                progress(done, len(samples), f"{sample.category} ({len(rows)} rows)")


def answer_clip(
    loaded: Loaded,
    video: Video,
    question: str,
    reducers: Sequence[Reducer],
    *,
    seed: int = 0,
    max_new_tokens: int = 32,
) -> ClipAnswer:
    """Answer one question about one video, with and without reduction.

    Parameters
    ----------
    loaded
        From :func:`tokenreduce.inference.load_model`.
    video
        From :func:`tokenreduce.video.load_video`.
    question
        The user's words.
    reducers
        Composed in order.
    seed
        Of the reducers' random choices.
    max_new_tokens
        Longest answer.
    """
    inputs = EncodedVideo(loaded, video.frames, video.timestamps).inputs(question)
    full = answer(loaded, inputs, (), max_new_tokens=max_new_tokens)
    reduced = answer(loaded, inputs, reducers, seed=seed, max_new_tokens=max_new_tokens)
    calls = {
        "full": first_token(loaded, inputs, ()),
        "reduced": first_token(loaded, inputs, reducers, seed=seed),
    }
    times = time_to_first_token(calls, repeats=TIMED_REPEATS, device=loaded.device)
    return ClipAnswer(
        answer=reduced.text,
        answer_full=full.text,
        model=loaded.name,
        adapter=loaded.adapter.name,
        frames=len(video),
        tokens_per_layer=reduced.trace.tokens_per_layer[0],
        img_memory=reduced.trace.img_memory,
        ttft_ms=times["reduced"].median * 1000,
        ttft_full_ms=times["full"].median * 1000,
        video=video,
    )


def _questions(benchmark: Benchmark, progress: Progress | None) -> list[Sample]:
    try:
        return benchmark.samples(progress)
    except TokenReduceError:
        raise
    except Exception as error:  # of a benchmark that anybody may have written
        raise ConfigError(
            f"benchmark '{benchmark.name}' cannot list its questions: {type(error).__name__}: "
            f"{error}; look at its files and settings."
        ) from error


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Return ``count`` samples (all, if there are fewer) evenly spread, the first one included."""
    count = min(count, len(samples))
    return [samples[len(samples) * i // count] for i in range(count)]


@contextmanager
def _results_file(out: Path | None) -> Iterator[Path]:
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="tokenreduce-") as folder:
        yield Path(folder) / "results.sqlite"
