"""Does units of work: loads the model, asks about a video in all cells, makes records."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

from tokenreduce.clips import AHEAD, ClipRequest, Clips, smaller
from tokenreduce.config import Classes, parse_stages
from tokenreduce.errors import ReducerError, TokenReduceError
from tokenreduce.inference import Answer, EncodedVideo, Loaded, answer_each, first_token, load_model
from tokenreduce.measure import peak_memory, time_to_first_token
from tokenreduce.records import Record, SampleRecord, TimingRecord
from tokenreduce.units import Unit

if TYPE_CHECKING:
    from pathlib import Path

    from tokenreduce.benchmark import Benchmark, Sample
    from tokenreduce.cells import Cell, Setup
    from tokenreduce.reducer import Reducer
    from tokenreduce.registry import Registry
    from tokenreduce.video import Video

MOST_SHARED = 64
"""Cells that share a prefill. Where they part each waits with its hidden states in memory."""


class ModelWorker:
    """The worker of every engine.

    Parameters
    ----------
    registry
        Where adapters, reducers and benchmarks are found.
    share
        Whether cells share what their prefills have in common.
    ahead
        Bytes of frames that may be decoded ahead; see :class:`tokenreduce.clips.Clips`.
    """

    def __init__(self, registry: Registry, *, share: bool = True, ahead: int = AHEAD) -> None:
        self._registry, self._most = registry, MOST_SHARED if share else 1
        self._classes = Classes(registry.reducers, registry.benchmarks)
        self._loaded: tuple[str, Loaded] | None = None
        self.clips = Clips(ahead)
        self._coming: list[Unit] = []
        self._lock = Lock()  # units are announced from other threads

    def run(self, unit: Unit) -> Iterator[Record]:
        """Yield each record as soon as it is made.

        Raises
        ------
        TokenReduceError
            If the model cannot be loaded, or a layer does not exist in it.
        """
        loaded = self.load(unit.setup)
        asking = Asking(loaded, self.clips)
        with self._lock:
            if unit in self._coming:
                del self._coming[: self._coming.index(unit) + 1]
            self.clips.begin(asking.requests(unit), self._requests())
        try:
            match unit.kind:
                case "answers":
                    yield from self._answers(unit, asking)
                case "timing":
                    yield from self._timings(unit, asking)
                case "pictures":
                    yield from self._pictures(unit, asking)
                case "calibration":
                    yield from self._calibrations(unit, asking)
        finally:
            self.clips.forget()

    def ahead(self, unit: Unit | None) -> None:
        """Decode the video of a unit that comes next, once its model is known; see `Worker`."""
        with self._lock:
            if unit is not None:
                self._coming.append(unit)
            elif self._coming:
                self._coming.pop()
            self.clips.expect(self._requests())

    def close(self) -> None:
        """Let go of all frames, and end what decodes."""
        with self._lock:
            self._coming.clear()
        self.clips.close()

    def _requests(self) -> list[list[ClipRequest]]:
        """Return what the units ask for that come next, as far as that is known."""
        key, loaded = self._loaded or (None, None)
        return [
            Asking(loaded, self.clips).requests(unit)
            for unit in self._coming
            # How many frames a model samples is known when it is there. Nothing runs beside what
            # is timed, and the others ask about too many videos.
            if loaded is not None and unit.setup.model_key() == key and unit.kind == "answers"
        ]

    def load(self, setup: Setup) -> Loaded:
        """Return the model of a setup; the last one stays loaded."""
        key = setup.model_key()
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # there may not be room for two
            loaded = load_model(
                setup.model,
                self._registry.adapters,
                dtype=setup.dtype,
                device=setup.device,
                positions=setup.positions,
                options=setup.model_options,
            )
            self._loaded = key, loaded
        return self._loaded[1]

    def reducers(self, cell: Cell) -> tuple[Reducer, ...]:
        """Return the reducers that a cell describes."""
        return cast("tuple[Reducer, ...]", parse_stages(cell.reducers, self._classes))

    def _answers(self, unit: Unit, asking: Asking) -> Iterator[SampleRecord]:
        benchmark = self._registry.make_benchmark(unit.setup.benchmark)
        for sample in unit.samples:
            left = [(k, cell) for k, cell in unit.cells if (k, sample.id) not in unit.done]
            for alike in _same_input(left):
                for start in range(0, len(alike), self._most):
                    some = alike[start : start + self._most]
                    yield from self._ask(unit, benchmark, sample, some, asking)

    def _ask(
        self,
        unit: Unit,
        benchmark: Benchmark,
        sample: Sample,
        cells: Sequence[tuple[str, Cell]],
        asking: Asking,
    ) -> Iterator[SampleRecord]:
        """Ask one question in cells that are shown the same input."""
        first = cells[0][1]
        before = unit.before[sample.id] if first.setup.turn > 1 else None
        asked = sample if before is None else replace(sample, question=before.question)
        try:
            video = asking.video(sample, first)
            inputs = asking.inputs(asked, first)
            variants = [(self.reducers(cell), cell.seed) for _, cell in cells]
            answers = answer_each(
                asking.loaded,
                inputs,
                variants,
                max_new_tokens=first.setup.max_new_tokens,
                then=None if before is None else sample.question,
            )
        except Exception as error:  # one question's failure is a result, not the end of the run
            for key, _ in cells:
                yield unit.failed(key, sample, reason(error))
            return
        for (key, _), said in zip(cells, answers, strict=True):
            blank = replace(
                unit.failed(key, sample, ""),
                error=None,
                bad_packets=video.bad_packets,
                inexact=video.inexact,
            )
            yield _record(blank, said, benchmark, sample)

    def _timings(self, unit: Unit, asking: Asking) -> Iterator[TimingRecord]:
        """Time all cells in turns with the first one, which is the unreduced one.

        Raises
        ------
        ReducerError
            After all else is timed, if a cell cannot be.
        """
        baseline, first = unit.cells[0]
        watched: set[str] = set()  # cells whose memory is measured
        failed: dict[str, str] = {}
        for sample in unit.samples:
            left = [(k, cell) for k, cell in unit.cells if (k, sample.id) not in unit.done]
            chosen = {baseline: first, **dict(left)} if left else {}
            calls = {
                key: first_token(
                    asking.loaded, asking.inputs(sample, cell), self.reducers(cell), seed=cell.seed
                )
                for key, cell in chosen.items()
            }
            for key, call in list(calls.items()):
                try:
                    call()
                except Exception as error:
                    failed[chosen[key].label] = reason(error)
                    del calls[key]
            if baseline in calls:
                yield from _timed(calls, baseline, dict(left), sample, unit, asking, watched)
        if failed:
            raise ReducerError("; ".join(f"{label}: {why}" for label, why in failed.items()))

    def _pictures(self, unit: Unit, asking: Asking) -> Iterator[Record]:
        from tokenreduce.pictures.recording import pictures

        for sample in unit.samples:
            for key, cell in unit.cells:
                if (key, sample.id) not in unit.done:
                    yield from pictures(
                        key,
                        asking.loaded,
                        asking.inputs(sample, cell),
                        asking.video(sample, cell),
                        sample,
                        self.reducers(cell),
                        seed=cell.seed,
                        max_new_tokens=cell.setup.max_new_tokens,
                    )

    def _calibrations(self, unit: Unit, asking: Asking) -> Iterator[Record]:
        from tokenreduce.ablations.calibrate import calibrations

        cells = [(key, cell, self.reducers(cell)) for key, cell in unit.cells]
        yield from calibrations(asking, unit.samples, cells)


class Asking:
    """Inputs of questions for one model: a video is decoded once, and encoded once as it is shown.

    It is let go as soon as another video is asked about.

    Parameters
    ----------
    loaded
        The model.
    clips
        Where decoded videos are kept.
    """

    def __init__(self, loaded: Loaded, clips: Clips) -> None:
        self.loaded, self._clips = loaded, clips
        self._path: Path | None = None
        self._encoded: dict[tuple[ClipRequest, float], EncodedVideo] = {}

    def video(self, sample: Sample, cell: Cell) -> Video:
        """Return the frames that a cell is shown, before they are made smaller."""
        return self._get(self.request(sample, cell))

    def requests(self, unit: Unit) -> list[ClipRequest]:
        """Return what a unit asks for, without what cannot be asked for: that is told later."""
        cells, found = dict(unit.cells), dict[ClipRequest, None]()
        for key, sample in unit.todo():
            with suppress(TokenReduceError):
                found[self.request(sample, cells[key])] = None
        return list(found)

    def request(self, sample: Sample, cell: Cell) -> ClipRequest:
        """Return what of its file a question needs in a cell."""
        processor = self.loaded.checkpoint.processor
        frames = cell.setup.frames or sample.frames or processor.frames
        return ClipRequest.of(sample, frames, processor.sampling, cell.frames_share)

    def inputs(self, sample: Sample, cell: Cell) -> dict[str, Any]:
        """Return the inputs of ``generate``."""
        request = self.request(sample, cell)
        shown = request, cell.size_share
        if shown not in self._encoded:
            video = self._get(request)
            frames = smaller(video.frames, cell.size_share)
            self._encoded[shown] = EncodedVideo(self.loaded, frames, video.timestamps)
        return self._encoded[shown].inputs(sample.question)

    def _get(self, request: ClipRequest) -> Video:
        if request.path != self._path:
            self._path = request.path
            self._encoded.clear()
            self._clips.forget(but=request.path)
        return self._clips.get(request)


def reason(error: Exception, limit: int = 300) -> str:
    """Return one line on why something failed."""
    text = " ".join(str(error).split())
    line = text if isinstance(error, TokenReduceError) else f"{type(error).__name__}: {text}"
    return line if len(line) <= limit else line[: limit - 3] + "..."


def _same_input(cells: Sequence[tuple[str, Cell]]) -> list[list[tuple[str, Cell]]]:
    """Return cells in groups that are shown the same input."""
    groups: dict[Any, list[tuple[str, Cell]]] = {}
    for key, cell in cells:
        setup = cell.setup
        shown = (setup.frames, setup.max_new_tokens, cell.frames_share, cell.size_share, setup.turn)
        groups.setdefault(shown, []).append((key, cell))
    return list(groups.values())


def _timed(
    calls: Mapping[str, Callable[[], None]],
    baseline: str,
    left: Container[str],
    sample: Sample,
    unit: Unit,
    asking: Asking,
    watched: set[str],
) -> Iterator[TimingRecord]:
    device = asking.loaded.device
    times = time_to_first_token(calls, repeats=unit.repeats, warmup=0, device=device)
    for key in calls:
        if key not in left:
            continue
        peak = None if key in watched else peak_memory(calls[key], device)
        watched.add(key)
        pairs = zip(times[key].seconds, times[baseline].seconds, strict=True)
        for turn, (own, full) in enumerate(pairs):
            yield TimingRecord(key, sample.id, turn, own, full, peak if turn == 0 else None)


def _record(
    blank: SampleRecord, said: Answer | Exception, benchmark: Benchmark, sample: Sample
) -> SampleRecord:
    if isinstance(said, Exception):
        return replace(blank, error=reason(said))
    try:
        correct = benchmark.matches(sample, said.text)
    except Exception as error:
        return replace(blank, error=reason(error))
    totals = said.totals
    return replace(
        blank,
        prediction=said.text,
        correct=correct,
        visual_tokens=totals.visual_tokens[0],
        tokens_per_layer=totals.tokens_per_layer[0],
        flops=totals.flops,
        flops_full=totals.flops_full,
        kv_bytes=totals.kv_bytes,
        kv_bytes_full=totals.kv_bytes_full,
    )


def make_worker(
    block: tuple[str, ...] = (), strict: bool = False, ahead: int = AHEAD
) -> ModelWorker:
    """Make a worker with the plugins that are installed where it lives.

    Parameters
    ----------
    block, strict
        See :class:`tokenreduce.config.PluginSettings`.
    ahead
        Bytes of frames that may be decoded ahead.
    """
    from tokenreduce.plugins import load_plugins

    return ModelWorker(load_plugins(block=block, strict=strict).registry, ahead=ahead)
