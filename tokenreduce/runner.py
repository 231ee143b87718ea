"""Runs reducers over a benchmark, or over one clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tokenreduce.ablations.grid import Grid
from tokenreduce.ablations.options import Timing
from tokenreduce.ablations.run import RunInterrupted, run_grid
from tokenreduce.cells import Cell, Setup
from tokenreduce.config import written
from tokenreduce.engines import Status
from tokenreduce.inference import EncodedVideo, Loaded, answer, first_token
from tokenreduce.labels import Reducers, summary, with_baseline
from tokenreduce.measure import time_to_first_token
from tokenreduce.report import Report
from tokenreduce.worker import ModelWorker

if TYPE_CHECKING:
    from tokenreduce.benchmark import Progress
    from tokenreduce.config import CompareConfig
    from tokenreduce.plugins import PluginManager
    from tokenreduce.reducer import Reducer
    from tokenreduce.video import Video

TIMED_SAMPLES = 8
TIMED_REPEATS = 3


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
    """Run a whole comparison: a grid of one table, in this process.

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
        Folder for the results; given again, it is resumed. By default they are not kept.

    Raises
    ------
    ConfigError
        If there is no such model, or a layer does not exist in it.
    AdapterError
        If the model cannot be loaded.
    """

    def tell(what: str, status: Status) -> None:
        if progress is not None:
            progress(status.done, status.total, what)

    try:
        results = run_grid(
            _as_grid(config),
            config.to_dict(),
            plugins,
            out,
            make_worker=lambda: ModelWorker(plugins.registry),
            workers=0,
            progress=tell,
        )
    except RunInterrupted as stopped:
        return replace(stopped.results.table(), interrupted=True)
    report = results.table()
    return replace(report, errors=(*report.errors, *results.notes))


def _as_grid(config: CompareConfig) -> Grid:
    settings = config.settings
    setup = Setup(
        settings.model,
        written(config.benchmark),
        settings.model_options,
        settings.dtype,
        settings.device,
        settings.positions,
        settings.max_new_tokens,
        settings.frames,
    )
    cells = [
        Cell(
            setup,
            label,
            label,
            tuple(map(written, reducers)),
            seed,
            summary=summary(label, reducers),
        )
        for label, reducers in with_baseline(cast("Reducers", config.reducers)).items()
        for seed in dict.fromkeys(settings.seeds)
    ]
    timing = Timing(samples=TIMED_SAMPLES, repeats=TIMED_REPEATS)
    return Grid(tuple(cells), timing, limit=settings.limit)


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
