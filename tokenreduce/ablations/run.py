"""Runs grids: questions, budgets, answers, timings, pictures, into one results folder."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenreduce.ablations.budget import Solution
from tokenreduce.ablations.grid import Grid, parse_grid
from tokenreduce.ablations.places import located, located_sample
from tokenreduce.ablations.questions import (
    Asked,
    by_video,
    choose_questions,
    list_questions,
    spread,
)
from tokenreduce.cells import Cell, Setup, digest
from tokenreduce.clips import AHEAD
from tokenreduce.config import EMBEDDED_MODEL, Classes, parse_stages, plugin_settings
from tokenreduce.engines import Engine, Status
from tokenreduce.engines import engine as make_engine
from tokenreduce.errors import ConfigError, WorkerError
from tokenreduce.fingerprint import fingerprint, of_cell
from tokenreduce.inference import Loaded, find_checkpoint, load_model
from tokenreduce.overrides import read_yaml
from tokenreduce.plugins import PluginManager, load_plugins
from tokenreduce.problems import Report
from tokenreduce.records import Record
from tokenreduce.results import Results
from tokenreduce.store import Store
from tokenreduce.units import MakeWorker, Unit, UnitKind
from tokenreduce.worker import make_worker

if TYPE_CHECKING:
    from tokenreduce.benchmark import Benchmark, Sample

Tell = Callable[[str, Status], None]
"""Told what is being done, and how far it is."""


def ablate(
    grid: Mapping[str, Any] | Path | str,
    out: Path | str | None = None,
    *,
    engine: str = "local",
    workers: int | None = 0,
    progress: Tell | None = None,
    plugins: PluginManager | None = None,
    retry_failed: bool = False,
    decode_ahead: int = AHEAD,
    say: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> Results:
    """Run a grid of models, benchmarks, reducers, settings and seeds.

    Parameters
    ----------
    grid
        A YAML file, or what would stand in it.
    out
        Folder of the results. Given again it is resumed: no question that is finished is asked
        again, and cells may be added. None: the results live as long as what is returned.
    engine, workers, **options
        Where the work is done; see :func:`tokenreduce.engines.engine`. By default in this process.
    progress
        Told what is being done, and how far it is.
    plugins
        Where reducers, adapters and benchmarks are found; by default the installed ones.
    retry_failed
        Whether questions that failed before are asked again.
    decode_ahead
        Bytes of frames of the next videos that each worker may hold while its model works; 0:
        videos are decoded when they are asked about.
    say
        Told what people should know before work begins, line by line: where it is done, and at
        which addresses processes listen.

    Returns
    -------
    Results
        Tables, comparisons, and a frame for notebooks.

    Raises
    ------
    ConfigError
        With everything that is wrong with the grid, before any weight is read.
    WorkerError
        If no worker can be started.
    KeyboardInterrupt
        What is finished is in ``out``.
    """
    data = grid if isinstance(grid, Mapping) else read_yaml(Path(grid))
    source = "the grid" if isinstance(grid, Mapping) else f"'{grid}'"
    settings = plugin_settings(data)
    found = plugins or load_plugins(block=settings.block, strict=settings.strict)
    classes = Classes(found.registry.reducers, found.registry.benchmarks)
    parsed = parse_grid(data, classes, source)
    make = partial(make_worker, settings.block, settings.strict, decode_ahead)
    return run_grid(
        parsed,
        data,
        found,
        out,
        make_worker=make,
        engine_name=engine,
        workers=workers,
        progress=progress,
        retry_failed=retry_failed,
        say=say,
        **options,
    )


def run_grid(
    grid: Grid,
    data: Any,
    plugins: PluginManager,
    out: Path | str | None,
    *,
    make_worker: MakeWorker,
    engine_name: str = "local",
    workers: int | None = 0,
    progress: Tell | None = None,
    retry_failed: bool = False,
    say: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> Results:
    """Run a grid that has been parsed; see :func:`ablate`.

    Parameters
    ----------
    grid
        Its cells.
    data
        The configuration they come from, in JSON types.
    plugins
        Where classes are found; its observers are told.
    out, engine_name, workers, progress, retry_failed, say, **options
        As of :func:`ablate`.
    make_worker
        Makes a :class:`~tokenreduce.worker.ModelWorker` where the work is done.
    """
    run = _Run(grid, data, plugins, make_worker, progress, retry_failed, say)
    small = all(cell.setup.model == EMBEDDED_MODEL for cell in grid.cells)
    device = grid.cells[0].setup.device
    with (
        _folder(out) as folder,
        Store.open(folder) as store,
        make_engine(engine_name, workers, device=device, small=small, **options) as working,
    ):
        return run.all(store, working)


class RunInterrupted(KeyboardInterrupt):
    """A run was interrupted by its user.

    Attributes
    ----------
    results
        What is finished.
    """

    def __init__(self, results: Results) -> None:
        super().__init__()
        self.results = results


@contextmanager
def _folder(out: Path | str | None) -> Iterator[Path]:
    if out is not None:
        yield Path(out)
        return
    with tempfile.TemporaryDirectory(prefix="tokenreduce-") as folder:
        yield Path(folder)


class _Run:
    """One run of a grid over a store and an engine."""

    def __init__(
        self,
        grid: Grid,
        data: Any,
        plugins: PluginManager,
        make_worker: MakeWorker,
        progress: Tell | None,
        retry_failed: bool,
        say: Callable[[str], None],
    ) -> None:
        self.grid, self.data, self.plugins = grid, data, plugins
        self.make_worker, self.progress, self.retry_failed = make_worker, progress, retry_failed
        self.registry = plugins.registry
        self.say = say
        self.notes = list(grid.notes)
        self.setups = {cell.setup.key(): cell.setup for cell in grid.cells}
        self.located = {
            key: located(setup, self._benchmark(setup)) for key, setup in self.setups.items()
        }
        self._check_layers()
        self.asked = self._questions()
        self.fingerprints = {key: self._fingerprint(setup) for key, setup in self.setups.items()}

    def all(self, store: Store, working: Engine) -> Results:
        """Run everything that is missing in the store.

        Raises
        ------
        RunInterrupted
            With what is finished, if the user interrupts.
        """
        for line in (*filter(None, [store.notice]), *working.about()):
            self.say(line)
        cells = [(self._key(cell), cell) for cell in self._solved(store, working)]
        questions = {key: [s.id for s in one.samples] for key, one in self.asked.items()}
        store.begin(self.data, cells, questions)
        if self.retry_failed:
            store.forget_failed([key for key, _ in cells])
        labels = list(dict.fromkeys(cell.label for _, cell in cells))
        self.plugins.notify("run_started", config=self.data, labels=labels)
        try:
            self._do("answers", self._answers(store, cells), store, working)
            one_seed = _of_first_seed([pair for pair in cells if pair[1].setup.turn == 1])
            # Nothing else may run beside what is timed.
            self._do("timing", self._timings(store, one_seed), store, working, alone=True)
            self._do("pictures", self._pictures(store, one_seed), store, working)
        except KeyboardInterrupt:
            raise RunInterrupted(Results(store)) from None
        results = Results(store, notes=[*self.notes, *working.notes])
        for report in results.tables:
            document = report.document()
            for row in document["rows"]:
                self.plugins.notify("cell_finished", row=row)
            self.plugins.notify("run_finished", document=document)
        return results

    def _do(
        self,
        what: UnitKind,
        units: Sequence[Unit],
        store: Store,
        working: Engine,
        *,
        alone: bool = False,
    ) -> None:
        def write(record: Record) -> None:
            store.add(record)

        def tell(status: Status) -> None:
            if self.progress is not None:
                self.progress(what, status)

        if not units:
            return
        failures = working.run(units, self.make_worker, write, tell, alone=alone)
        if failures and what == "calibration":
            raise WorkerError(f"budgets cannot be solved: {failures[0].reason}")
        if what != "answers":  # whose failures are records
            self.notes += [f"{what}: {failure.reason}" for failure in failures]

    def _check_layers(self) -> None:
        """Check that the reducers fit the models, whose weights are not read yet."""
        report = Report()
        classes = Classes(self.registry.reducers, self.registry.benchmarks)
        models: dict[str, Loaded] = {}
        for cell in self.grid.cells:
            setup = cell.setup
            if setup.model_key() not in models:
                models[setup.model_key()] = load_model(
                    setup.model,
                    self.registry.adapters,
                    dtype=setup.dtype,
                    device="meta",
                    positions=setup.positions,
                    options=setup.model_options,
                )
            try:
                reducers: Any = parse_stages(cell.reducers, classes)
                models[setup.model_key()].session(reducers)
            except ConfigError as error:
                report.add(("reducers", cell.label), str(error))
        report.raise_if_any("the grid")

    def _questions(self) -> dict[str, Asked]:
        """List the questions of every setup; of equal benchmarks once."""
        listed: dict[str, list[Sample]] = {}
        found: dict[str, Asked] = {}
        for key, setup in self.setups.items():
            name = digest(setup.benchmark)
            if name not in listed:
                asked = list_questions(self._benchmark(setup), self._rendering())
                listed[name] = [located_sample(sample) for sample in asked]
            found[key] = choose_questions(
                listed[name], turn=setup.turn, held_out=self.grid.slice, limit=self.grid.limit
            )
        self.notes += [
            f"{alone} questions are the only ones about their clip: no second turn asks them."
            for alone in dict.fromkeys(asked.alone for asked in found.values())
            if alone
        ]
        return found

    def _rendering(self) -> Callable[[int, int, str], None]:
        def tell(done: int, total: int, what: str) -> None:
            if self.progress is not None:
                self.progress(what, Status(total, done, 0, 0))

        return tell

    def _benchmark(self, setup: Setup) -> Benchmark:
        return self.registry.make_benchmark(setup.benchmark)

    def _fingerprint(self, setup: Setup) -> dict[str, str]:
        directory, adapter = find_checkpoint(setup.model, self.registry.adapters)
        own = [cell for cell in self.grid.cells if cell.setup == setup]
        names = dict.fromkeys(stage["use"] for cell in own for stage in cell.reducers)
        reducers = [self.registry.reducer(name) for name in names]
        benchmark = self.registry.benchmark(setup.benchmark["use"])
        return fingerprint(setup, reducers, benchmark, type(adapter), directory)

    def _key(self, cell: Cell) -> str:
        return cell.key(of_cell(self.fingerprints[cell.setup.key()], cell))

    def _solved(self, store: Store, working: Engine) -> list[Cell]:
        """Return the cells with the settings that their budgets ask for."""
        wanted = {self._budget_key(cell): cell for cell in self.grid.cells if cell.budget}
        known = store.calibrations()
        missing = [(key, cell) for key, cell in wanted.items() if key not in known]
        units = [
            Unit(
                "calibration",
                self._located(cells[0][1]),
                self._of(cells[0][1]).held_out,
                tuple(cells),
            )
            for cells in _grouped(missing, lambda cell: cell.setup.key())
        ]
        self._do("calibration", units, store, working)
        known = store.calibrations()
        return [
            Solution.from_json(known[self._budget_key(cell)]).applied(cell) if cell.budget else cell
            for cell in self.grid.cells
        ]

    def _of(self, cell: Cell) -> Asked:
        return self.asked[cell.setup.key()]

    def _located(self, cell: Cell) -> Setup:
        return self.located[cell.setup.key()]

    def _budget_key(self, cell: Cell) -> str:
        """Return what a solution is known by: cell, budget, and the questions it is solved on."""
        assert cell.budget is not None
        asked = self._of(cell)
        budget = [cell.budget.measure, cell.budget.target, cell.budget.tolerance]
        return digest([self._key(cell), budget, [asked.digests[s.id] for s in asked.held_out]])

    def _answers(self, store: Store, cells: Sequence[tuple[str, Cell]]) -> list[Unit]:
        """Return a unit for each video of each benchmark and model, with all cells that ask it."""
        units: dict[tuple[str, int], list[Unit]] = {}
        finished = {key: store.finished(key) for key, _ in cells}
        for group in _grouped(cells, lambda cell: _same_worker(cell.setup)):
            setup, asked = self._located(group[0][1]), self._of(group[0][1])
            for number, samples in enumerate(by_video(asked.samples)):
                done = frozenset(
                    (key, sample.id)
                    for key, _ in group
                    for sample in samples
                    if finished[key].get(sample.id) == asked.digests[sample.id]
                )
                unit = Unit(
                    "answers",
                    setup,
                    samples,
                    tuple(group),
                    done,
                    {s.id: asked.digests[s.id] for s in samples},
                    before={s.id: asked.before[s.id] for s in samples if s.id in asked.before},
                )
                units.setdefault((setup.model_key(), number), []).append(unit)
        return [unit for each in units.values() for unit in each]

    def _timings(self, store: Store, groups: Sequence[Sequence[tuple[str, Cell]]]) -> list[Unit]:
        timing = self.grid.timing
        if timing is None:
            return []
        units = []
        for group in groups:
            setup, asked = self._located(group[0][1]), self._of(group[0][1])
            baseline = group[0][0]
            failed = {(key, sample) for key, _ in group for sample in store.failed(key)}
            answered = [s for s in asked.samples if (baseline, s.id) not in failed]
            samples = spread(answered, timing.samples)
            rounds = Counter((key, t.sample) for key, _ in group for t in store.timings(key))
            done = {pair for pair, count in rounds.items() if count >= timing.repeats}
            units.append(
                Unit(
                    "timing",
                    setup,
                    tuple(samples),
                    tuple(group),
                    frozenset(done | failed),
                    asked.digests,
                    timing.repeats,
                )
            )
        return units

    def _pictures(self, store: Store, groups: Sequence[Sequence[tuple[str, Cell]]]) -> list[Unit]:
        units = []
        for group in groups if self.grid.pictures else ():
            setup, asked = self._located(group[0][1]), self._of(group[0][1])
            failed = {(key, sample) for key, _ in group for sample in store.failed(key)}
            drawn = {(key, picture.sample) for key, _ in group for picture in store.pictures(key)}
            for sample in spread(asked.samples, self.grid.pictures):
                done = frozenset(drawn | failed)
                units.append(Unit("pictures", setup, (sample,), tuple(group), done, asked.digests))
        return units


def _of_first_seed(cells: Sequence[tuple[str, Cell]]) -> list[list[tuple[str, Cell]]]:
    """Return the cells of each setup, those that differ in the seed alone once."""
    groups = []
    for group in _grouped(cells, lambda cell: cell.setup.key()):
        chosen: dict[str, tuple[str, Cell]] = {}
        for key, cell in group:
            chosen.setdefault(digest({**cell.config(), "seed": None}), (key, cell))
        groups.append(list(chosen.values()))
    return groups


def _same_worker(setup: Setup) -> str:
    """Return what cells have in common that one worker asks about a video.

    That is model and benchmark, and the turn: not every question has another one before it.
    """
    return digest([setup.model_key(), dict(setup.benchmark), setup.turn])


def _grouped(
    cells: Sequence[tuple[str, Cell]], name: Callable[[Cell], str]
) -> list[list[tuple[str, Cell]]]:
    """Return cells in groups of one name, in order; a key that comes again counts once."""
    groups: dict[str, dict[str, tuple[str, Cell]]] = {}
    for key, cell in cells:
        groups.setdefault(name(cell), {}).setdefault(key, (key, cell))
    return [list(group.values()) for group in groups.values()]
