"""Runs a bench: baselines and reducers in turns, then profiles and memory, each apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tokenreduce.bench.machine import fits, flash_attention, machine
from tokenreduce.bench.pattern import seen_by
from tokenreduce.bench.phases import Phases, prefill, profile_prefill
from tokenreduce.bench.result import Result, Row, parts, seconds, times
from tokenreduce.bench.timing import Sample, timed_generate
from tokenreduce.errors import AdapterError, ConfigError
from tokenreduce.inference import pick_device
from tokenreduce.labels import joined, settings
from tokenreduce.measure import in_turns, peak_memory, time_to_first_token

if TYPE_CHECKING:
    from tokenreduce.bench.request import Request
    from tokenreduce.bench.subject import Subject
    from tokenreduce.benchmark import Progress
    from tokenreduce.ideal import Rates
    from tokenreduce.plugins import PluginManager
    from tokenreduce.reducer import Reducer
    from tokenreduce.session import Run
    from tokenreduce.trace import Trace

BARE, EAGER, FLASH = "model", "eager", "flash_attention_2"
VISION_REPEATS = 3


def run_bench(request: Request, plugins: PluginManager, tell: Progress | None = None) -> Result:
    """Make or load the model, and measure.

    A keyboard interrupt ends it early and keeps what has been measured.

    Parameters
    ----------
    request
        What to measure, and how.
    plugins
        For the adapters of checkpoints.
    tell
        Is told how far it is.

    Raises
    ------
    ConfigError
        If this machine has no such device or attention implementation.
    AdapterError
        If no adapter claims the checkpoint, or it cannot be loaded.
    """
    tell = tell or (lambda done, total, what: None)
    vision = _vision_of_shape(request)
    bench = Bench(request, _subject(request, plugins), vision, tell)
    try:
        bench.run()
    except KeyboardInterrupt:
        return bench.result(interrupted=True)
    return bench.result()


@dataclass(slots=True, eq=False)
class Case:
    """One way to run the model, and what has been measured of it.

    Attributes
    ----------
    row
        What it is called, without numbers.
    reducers
        None: nothing is attached to the model.
    implementation
        Of attention; None: the model's own.
    samples, trace, phases, memory
        Measured so far.
    """

    row: Row
    reducers: Sequence[Reducer] | None = None
    implementation: str | None = None
    samples: list[Sample] = field(default_factory=list)
    trace: Trace | None = None
    phases: Phases | None = None
    memory: int | None = None

    def fastest(self, what: str) -> float | None:
        """Return the shortest ``ttft`` or ``prefill``; None before the first."""
        return min((getattr(sample, what) for sample in self.samples), default=None)

    def keep(self, trace: Trace) -> None:
        """Remember the trace."""
        self.trace = trace


class Bench:
    """One bench while it runs; :meth:`result` may be asked for at any time.

    Parameters
    ----------
    request
        What to measure, and how.
    subject
        Model and inputs.
    vision
        What was measured of a vision tower apart from the model.
    tell
        Is told how far it is.
    """

    def __init__(
        self, request: Request, subject: Subject, vision: dict[str, Any] | None, tell: Progress
    ) -> None:
        self.request, self.subject, self.vision, self._tell = request, subject, vision, tell
        self.rates: Rates | None = None
        own = subject.attention
        self.cases = [Case(Row(BARE, None, {}, own)), *self._other_attention(own)]
        for label, reducers in request.rows.items():
            made = settings(reducers)
            row = Row(label, joined(reducers), made, own, paper=self._paper(label))
            self.cases.append(Case(row, reducers))
        self._done = self._total = 0

    def run(self) -> None:
        """Measure everything; an interrupt leaves what has been measured."""
        options, running = self.request.settings, [case for case in self.cases if not case.row.note]
        own = [case for case in running if case.implementation is None]
        apart = sum(part not in options.without for part in ("memory", "phases"))
        self._total = len(running) * (options.warmup + options.repeats) + len(own) * apart
        if self.subject.vision is not None and "vision" not in options.without:
            self.vision = _timed_vision(self.subject.vision, self.subject.device)
        for _ in range(options.warmup):
            for case in running:
                self._step(case, "warm-up")
                self._generate(case)
        if options.repeats:
            calls = {case: self._timed(case) for case in running}
            for case, sample in in_turns(calls, options.repeats):
                case.samples.append(sample)
            self.rates = self._rates()
        if "phases" not in options.without:
            for case in own:
                self._step(case, "profile")
                self._profile(case)
        if "memory" not in options.without:
            for case in own:
                self._step(case, "memory")
                self._watch_memory(case)
        self._tell(self._total, self._total, "done")

    def result(self, *, interrupted: bool = False) -> Result:
        """Return what has been measured so far."""
        subject, request = self.subject, self.request
        grid = request.grid
        return Result(
            model=subject.name,
            paper_model=request.shape.model if request.shape else "",
            shape=asdict(subject.shape),
            grid=None if grid is None else (grid.frames, grid.rows, grid.columns),
            visual_tokens=subject.visual,
            tokens=subject.tokens,
            options={**request.settings.model_dump(mode="json"), "pattern": request.pattern},
            machine=machine(subject.device),
            rates=None if self.rates is None else asdict(self.rates),
            vision=self.vision,
            rows=[self._row(case) for case in self.cases],
            interrupted=interrupted,
        )

    def _other_attention(self, own: str) -> list[Case]:
        """Return the baselines with attention implementations that are not the model's own."""
        cases: list[Case] = []
        if not self.request.settings.repeats:
            return cases
        if own != EAGER and EAGER not in self.request.settings.without:
            note = "" if fits(self.subject) else "its map of attention does not fit in memory"
            cases.append(Case(Row(EAGER, None, {}, EAGER, note=note), None, EAGER))
        if own != FLASH and flash_attention(self.subject.device):
            cases.append(Case(Row(FLASH, None, {}, FLASH), None, FLASH))
        return cases

    def _paper(self, label: str) -> dict[str, float | None] | None:
        row = self.request.published.get(label)
        if row is None:
            return None
        return {
            "table": row.table,
            "ttft_speedup": row.ttft_speedup,
            "img_memory": row.img_memory,
        }

    def _step(self, case: Case, what: str) -> None:
        self._tell(self._done, self._total, f"{case.row.label}: {what}")
        self._done += 1

    def _seen(self, case: Case) -> list[Reducer] | None:
        if case.reducers is None:
            return None
        return [seen_by(reducer, self.request.pattern) for reducer in case.reducers]

    def _generate(self, case: Case) -> Sample:
        options = self.request.settings
        return timed_generate(
            self.subject,
            self._seen(case),
            decode=0 if "decode" in options.without else options.decode,
            implementation=case.implementation,
            keep=case.keep if case.trace is None else None,
        )

    def _timed(self, case: Case) -> Callable[[], Sample]:
        def call() -> Sample:
            self._step(case, "timed")
            return self._generate(case)

        return call

    def _rates(self) -> Rates:
        from tokenreduce.ideal import measure_rates

        subject = self.subject
        return measure_rates(subject.shape, subject.tokens, subject.dtype, subject.device)

    def _profile(self, case: Case) -> None:
        keep = case.keep if case.trace is None else None
        case.phases = profile_prefill(self.subject, case.reducers, self.request.pattern, keep)

    def _watch_memory(self, case: Case) -> None:
        reducers = self._seen(case)

        def call() -> None:
            if reducers is None:
                prefill(self.subject)
                return
            with self.subject.session(reducers).attached() as run:
                prefill(self.subject)
            runs.append(run)

        runs: list[Run] = []
        case.memory = peak_memory(call, self.subject.device)
        if runs and case.trace is None:
            case.trace = runs[0].trace

    def _row(self, case: Case) -> Row:
        row = replace(case.row, **times(case.samples), **self._speedups(case))
        row = replace(row, **self._ideal(case), peak_memory=case.memory)
        if case.phases is None:
            return row
        share = case.phases.overhead / case.phases.total
        return replace(row, phases=parts(case.phases), overhead=share)

    def _speedups(self, case: Case) -> dict[str, Any]:
        baselines = {each.row.label: each for each in self.cases if each.reducers is None}
        bare, eager = baselines[BARE], baselines.get(EAGER, Case(case.row))
        ttft = [each.fastest("ttft") for each in (bare, case)]
        seen = self.vision["minimum"] if self.vision else None
        return {
            "speedup": _ratio(bare.fastest("prefill"), case.fastest("prefill")),
            "ttft_speedup": _ratio(*ttft),
            "ttft_speedup_with_vision": _ratio(*(_sum(seen, each) for each in ttft)),
            "speedup_over_eager": _ratio(eager.fastest("prefill"), case.fastest("prefill")),
        }

    def _ideal(self, case: Case) -> dict[str, Any]:
        """Return what the trace says, and what it would come to at the machine's rates."""
        full = [self.subject.tokens] * self.subject.shape.layers
        if case.trace is None:
            return {"tokens_per_layer": full if case.reducers is None else ()}
        held = [len(samples[0]) for samples in case.trace.kept_positions()]
        told = {
            "tokens_per_layer": held,
            "img_memory": case.trace.img_memory,
            "flops_ratio": case.trace.flops_ratio,
        }
        if self.rates is None:
            return told
        from tokenreduce.ideal import ideal_speedup

        ideal = ideal_speedup(self.subject.shape, full, held, self.rates)
        speedup = self._speedups(case)["speedup"]
        return {**told, "ideal_speedup": ideal, "efficiency": _ratio(speedup, ideal)}


def _ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or below is None else above / below


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _subject(request: Request, plugins: PluginManager) -> Subject:
    from tokenreduce.bench.subject import checkpoint_subject, shape_subject

    options = request.settings
    attention, device = options.attention, pick_device(options.device)
    if attention.startswith("flash") and not flash_attention(device):
        raise ConfigError(
            f"attention '{attention}' cannot be used on {device} here: install flash-attn for a "
            "CUDA device, or use sdpa."
        )
    if request.shape is None or request.grid is None:
        return checkpoint_subject(
            options.model,
            plugins.registry.adapters,
            request.frames,
            dtype=options.dtype,
            device=device,
            attention=attention,
        )
    return shape_subject(
        request.shape,
        request.grid,
        text=options.text,
        dtype=options.dtype,
        device=device,
        attention=attention,
    )


def _vision_of_shape(request: Request) -> dict[str, Any] | None:
    """Time a named shape's vision tower, and let go of it: some do not fit beside their decoder."""
    options = request.settings
    if request.shape is None or "vision" in options.without:
        return None
    import torch

    from tokenreduce.bench.random_weights import look, random_tower

    device = pick_device(options.device)
    shape = request.shape.tower
    tower = random_tower(shape, dtype=options.dtype, device=device, attention="sdpa")
    timed = _timed_vision(look(tower, shape, request.frames), device)
    flops = _vision_flops(tower, request.frames)
    del tower
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    return {**timed, "flops": flops}


def _vision_flops(tower: Any, frames: int) -> int | None:
    from tokenreduce.cost import vision_flops

    try:
        return vision_flops(tower.config, frames)
    except AdapterError:  # a tower whose cost is not modelled
        return None


def _timed_vision(call: Callable[[], object], device: str) -> dict[str, Any]:
    timing = time_to_first_token({"vision": call}, repeats=VISION_REPEATS, device=device)
    return seconds(timing["vision"].seconds)
