"""What a grid would cost, by arithmetic: no weight is read, and no question is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from tokenreduce.ablations.forecast import Forecast, Forecaster, apart, shared
from tokenreduce.ablations.questions import choose_questions, list_questions, spread
from tokenreduce.clips import Clips, smaller
from tokenreduce.config import Classes, parse_stages
from tokenreduce.course import Variant
from tokenreduce.inference import Loaded, load_model
from tokenreduce.layout import Role
from tokenreduce.worker import MOST_SHARED, Asking

if TYPE_CHECKING:
    from rich.console import Console

    from tokenreduce.ablations.grid import Grid
    from tokenreduce.benchmark import Progress, Sample
    from tokenreduce.cells import Cell
    from tokenreduce.cost import DecoderShape
    from tokenreduce.layout import Layout
    from tokenreduce.reducer import Reducer
    from tokenreduce.registry import Registry

LOOKED_AT = 2
"""Questions of each number of frames whose prompts are laid out; the others are taken as alike."""

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class CellCost:
    """What one question costs in one cell, as a mean.

    Attributes
    ----------
    label, reducer, seed
        Of the cell.
    target
        Of its budget; its settings are counted as they are written, before they are solved.
    forced
        Whether what it removes depends on the video: then this is its forced schedule alone.
    visual_tokens
        Visual tokens before any reduction.
    img_memory
        Visual tokens in the cache over all layers, as a share of those of the unreduced model.
    flops, kv_bytes
        Of the prefill, and of keys and values after it.
    """

    label: str
    reducer: str
    seed: int
    target: float | None
    forced: bool
    visual_tokens: float
    img_memory: float
    flops: float
    kv_bytes: float


@dataclass(frozen=True, slots=True)
class SetupCost:
    """What the cells of one setup cost.

    Attributes
    ----------
    setup
        Its settings.
    questions
        How many are asked in each cell.
    cells
        One for each cell.
    token_layers, token_layers_shared
        Tokens that decoder layers run over in all prefills, cell by cell and with shared prefixes.
    """

    setup: Mapping[str, Any]
    questions: int
    cells: tuple[CellCost, ...]
    token_layers: float
    token_layers_shared: float


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a grid would cost.

    Attributes
    ----------
    setups
        One after the other.
    notes
        What was left out of the grid, for people.
    """

    setups: tuple[SetupCost, ...]
    notes: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return the machine-readable document, in JSON types."""
        alone = sum(each.token_layers for each in self.setups)
        together = sum(each.token_layers_shared for each in self.setups)
        return {
            "cells": sum(len(each.cells) for each in self.setups),
            "answers": sum(each.questions * len(each.cells) for each in self.setups),
            "flops": sum(c.flops * each.questions for each in self.setups for c in each.cells),
            "token_layers": alone,
            "token_layers_shared": together,
            "saved": 1 - together / alone,
            "notes": list(self.notes),
            "setups": [
                {**asdict(each), "cells": [asdict(cell) for cell in each.cells]}
                for each in self.setups
            ],
        }

    def to_json(self) -> str:
        """Return the document on one line."""
        return json.dumps(self.document())

    def print(self, console: Console) -> None:
        """Print a table for each setup, and the totals."""
        for each in self.setups:
            console.print(_table(each))
        whole = self.document()
        console.print(
            f"{whole['cells']:,} cells, {whole['answers']:,} answers, prefill "
            f"{whole['flops']:.3g} FLOPs cell by cell; shared prefixes save "
            f"{whole['saved']:.1%} of its token-layers."
        )
        if any(cell.forced for each in self.setups for cell in each.cells):
            console.print("forced: more goes where a video gives reason to; this is the rest.")
        if any(cell.target is not None for each in self.setups for cell in each.cells):
            console.print("not solved: at the settings that were written, before the budget.")
        for note in self.notes:
            console.print(note, markup=False)


def dry_run(grid: Grid, registry: Registry, progress: Progress | None = None) -> DryRun:
    """Work out what a grid would cost.

    Parameters
    ----------
    grid
        Its cells.
    registry
        Where reducers, adapters and benchmarks are found.
    progress
        Told about every list of reducers that is tried.

    Raises
    ------
    ConfigError
        If there is no such model, a layer does not exist in it, or no question can be laid out.
    AdapterError
        If no adapter claims a model.
    """
    setups = []
    done = 0
    for _, group in groupby(grid.cells, key=lambda cell: cell.setup.key()):
        cells = list(group)
        setups.append(_SetupRun(grid, cells, registry).cost())
        done += len(cells)
        if progress is not None:
            progress(done, len(grid.cells), cells[0].setup.model)
    return DryRun(tuple(setups), grid.notes)


class _Prompt(NamedTuple):
    """A question as it is shown, and how many questions it stands for."""

    layout: Layout
    weight: float

    @property
    def visual_tokens(self) -> int:
        return int((self.layout.role == int(Role.GRID)).sum())


class _SetupRun:
    """The cells of one setup while their cost is worked out."""

    def __init__(self, grid: Grid, cells: Sequence[Cell], registry: Registry) -> None:
        self._cells, self._registry = cells, registry
        self._classes = Classes(registry.reducers, registry.benchmarks)
        setup = cells[0].setup
        self._setup = setup
        listed = list_questions(registry.make_benchmark(setup.benchmark))
        self._samples = choose_questions(
            listed, turn=setup.turn, held_out=grid.slice, limit=grid.limit
        ).samples
        self._loaded = load_model(
            setup.model,
            registry.adapters,
            dtype=setup.dtype,
            device="meta",
            positions=setup.positions,
            options=setup.model_options,
        )
        model, adapter = self._loaded.model, self._loaded.adapter
        self._shape: DecoderShape = adapter.decoder_shape(model)
        self._forecaster = Forecaster(self._shape.layers, adapter.first_layer(model))
        self._dependent: dict[str, bool] = {}

    def cost(self) -> SetupCost:
        """Return what the cells cost."""
        whole = self._prompts(self._cells[0])
        costs: dict[int, CellCost] = {}
        alone = together = 0.0
        for share, numbers in self._same_input().items():
            cells = [self._cells[number] for number in numbers]
            prompts = whole if share == (1.0, 1.0) else self._prompts(cells[0])
            found = [self._forecasts(prompt, cells) for prompt in prompts]
            for place, number in enumerate(numbers):
                each = [forecasts[place] for forecasts in found]
                costs[number] = self._cell_cost(cells[place], each, prompts, whole)
            for prompt, forecasts in zip(prompts, found, strict=True):
                alone += prompt.weight * apart(forecasts)
                for start in range(0, len(forecasts), MOST_SHARED):
                    together += prompt.weight * shared(forecasts[start : start + MOST_SHARED])
        ordered = tuple(costs[number] for number in range(len(self._cells)))
        return SetupCost(self._setup.config(), len(self._samples), ordered, alone, together)

    def _same_input(self) -> dict[tuple[float, float], list[int]]:
        groups: dict[tuple[float, float], list[int]] = {}
        for number, cell in enumerate(self._cells):
            groups.setdefault((cell.frames_share, cell.size_share), []).append(number)
        return groups

    def _prompts(self, cell: Cell) -> list[_Prompt]:
        """Lay out a few questions as a cell shows them."""
        asking = Asking(self._loaded, Clips())
        groups: dict[int | None, list[Sample]] = {}
        for sample in self._samples:
            groups.setdefault(self._setup.frames or sample.frames, []).append(sample)
        prompts = []
        for samples in groups.values():
            some = spread(samples, LOOKED_AT)
            for sample in some:
                layout = _layout(self._loaded, asking, sample, cell)
                prompts.append(_Prompt(layout, len(samples) / len(some)))
        return prompts

    def _forecasts(self, prompt: _Prompt, cells: Sequence[Cell]) -> list[Forecast]:
        variants = [Variant(self._reducers(cell), cell.seed) for cell in cells]
        return self._forecaster.forecasts(prompt.layout, variants)

    def _reducers(self, cell: Cell) -> tuple[Reducer, ...]:
        return cast("tuple[Reducer, ...]", parse_stages(cell.reducers, self._classes))

    def _cell_cost(
        self,
        cell: Cell,
        forecasts: Sequence[Forecast],
        prompts: Sequence[_Prompt],
        whole: Sequence[_Prompt],
    ) -> CellCost:
        weights = [prompt.weight / len(self._samples) for prompt in prompts]

        def mean(values: Iterator[float]) -> float:
            return sum(w * value for w, value in zip(weights, values, strict=True))

        shape, size = self._shape, _BYTES[self._setup.dtype]
        memory = (
            sum(forecast.visual) / (shape.layers * full.visual_tokens)
            for forecast, full in zip(forecasts, whole, strict=True)
        )
        return CellCost(
            cell.label,
            cell.reducer,
            cell.seed,
            None if cell.budget is None else cell.budget.target,
            self._depends(cell),
            mean(prompt.visual_tokens for prompt in prompts),
            mean(memory),
            mean(forecast.flops(shape) for forecast in forecasts),
            mean(forecast.kv_bytes(shape, size) for forecast in forecasts),
        )

    def _depends(self, cell: Cell) -> bool:
        name = json.dumps(cell.reducers)
        if name not in self._dependent:
            self._dependent[name] = self._forecaster.depends_on_content(self._reducers(cell))
        return self._dependent[name]


def _layout(loaded: Loaded, asking: Asking, sample: Sample, cell: Cell) -> Layout:
    video = asking.video(sample, cell)
    frames = smaller(video.frames, cell.size_share)
    processor = loaded.checkpoint.processor
    inputs = processor.video_inputs(frames, sample.question, video.timestamps)
    return loaded.adapter.layout(loaded.model, inputs)


def _table(cost: SetupCost) -> Any:
    from rich.markup import escape
    from rich.table import Table

    setup = cost.setup
    frames = "" if setup["frames"] is None else f", {setup['frames']} frames"
    words = f"{setup['model']} on {setup['benchmark']['use']}{frames}: {cost.questions:,} questions"
    title = escape(words)
    table = Table(title=title, title_justify="left")
    columns = {
        "cell": [cell.label for cell in cost.cells],
        "seed": [str(cell.seed) for cell in cost.cells],
        "budget": ["" if c.target is None else f"{c.target:g}" for c in cost.cells],
        "tokens": [f"{cell.visual_tokens:.0f}" for cell in cost.cells],
        "Img-Mem": [f"{cell.img_memory:.3f}" for cell in cost.cells],
        "FLOPs": [f"{cell.flops:.2e}" for cell in cost.cells],
        "KV bytes": [f"{cell.kv_bytes:.2e}" for cell in cost.cells],
        "schedule": [_schedule(cell) for cell in cost.cells],
    }
    # What is the same everywhere is left out, so that the rest fits into 80 characters.
    shown = {k: v for k, v in columns.items() if k not in _IF_VARIED or len(set(v)) > 1}
    for name in shown:
        table.add_column(name, justify="left" if name in ("cell", "schedule") else "right")
    for row in zip(*shown.values(), strict=True):
        table.add_row(*map(escape, row))
    return table


_IF_VARIED = ("seed", "budget", "schedule")


def _schedule(cell: CellCost) -> str:
    words = ["forced"] if cell.forced else []
    if cell.target is not None:
        words.append("not solved")
    return ", ".join(words)
