"""Solves the budgets of cells on held-out questions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Protocol

from tokenreduce.ablations.budget import NOTHING_TO_TURN, Solution, not_reached, reaches, solve
from tokenreduce.ablations.contents import counts_follow_settings
from tokenreduce.ablations.held_out import over_videos
from tokenreduce.ablations.input_share import Size, frames_share
from tokenreduce.ablations.prefills import Full, Shares, prefill, size_of
from tokenreduce.cells import Budget, Cell, Measure, digest
from tokenreduce.config import besides_use, written
from tokenreduce.errors import ConfigError
from tokenreduce.layout import Layout, Role
from tokenreduce.records import CalibrationRecord
from tokenreduce.trace_builder import sum_up

if TYPE_CHECKING:
    from tokenreduce.benchmark import Sample
    from tokenreduce.inference import Loaded
    from tokenreduce.reducer import Reducer

MOST_QUESTIONS = 480
"""Held-out questions that are measured: enough for a mean of VAS to 0.2 points."""

FEW_QUESTIONS = 48
"""So many of them tell a setting that is far from the target."""

FAR = 3
"""A gap of more standard errors than this is far."""


class Asking(Protocol):
    """Gives the inputs of questions; see :class:`tokenreduce.worker.Asking`."""

    loaded: Loaded

    def inputs(self, sample: Sample, cell: Cell) -> dict[str, Any]:
        """Return what ``generate`` takes for a question, shown as a cell says."""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A held-out question with the input of an unreduced cell, and what its prefill is like."""

    sample: Sample
    inputs: Mapping[str, Any]
    full: Full
    layout: Layout

    @property
    def size(self) -> Size:
        """Tokens of its prompt, and how many of them are the video's."""
        role = self.layout.role[0]
        return Size(int((role != int(Role.PAD)).sum()), int((role > int(Role.TEXT)).sum()))


class HeldOut:
    """Held-out questions, opened once; runs no prefill twice.

    Parameters
    ----------
    asking
        Gives their inputs.
    samples
        The questions; of more than :data:`MOST_QUESTIONS` so many are taken, over all videos.
    cell
        A cell of the model and frames that they are asked with.

    Raises
    ------
    ConfigError
        If none of them can be asked.
    """

    def __init__(self, asking: Asking, samples: Sequence[Sample], cell: Cell) -> None:
        self.loaded, self._asking = asking.loaded, asking
        whole = replace(cell, frames_share=1.0, size_share=1.0)
        chosen = over_videos(samples, MOST_QUESTIONS)
        self.questions = list(_opened(asking, chosen, whole))
        few = {sample.id for sample in over_videos(chosen, FEW_QUESTIONS)}
        self._few = [n for n, each in enumerate(self.questions) if each.sample.id in few]
        self._seen: dict[tuple[str, int], Shares] = {}
        self._sizes: dict[Measure, list[int]] = {}

    def shares(
        self,
        reducers: Sequence[Reducer],
        measure: Measure,
        seed: int,
        *,
        exact: bool = False,
        few: bool = False,
    ) -> list[float]:
        """Return the share of each question.

        Parameters
        ----------
        reducers, measure, seed
            See :func:`tokenreduce.ablations.prefills.measure_share`.
        exact
            Whether counts do not depend on content: one question of each size is then run.
        few
            Whether to ask :data:`FEW_QUESTIONS` of them only.
        """
        key = digest([[written(stage) for stage in reducers], seed])
        every = self._alike(measure) if exact else range(len(self.questions))
        numbers = [every[number] for number in self._few] if few else every
        for number in set(numbers) - {asked for name, asked in self._seen if name == key}:
            question = self.questions[number]
            run = prefill(self.loaded, question.inputs, reducers, seed=seed)
            self._seen[key, number] = Shares.of(sum_up(run), question.full)
        return [self._seen[key, number].get(measure) for number in numbers]

    def shown(self, cell: Cell) -> list[float]:
        """Return the share of each question, shown as a cell with less input says, unreduced."""
        assert cell.budget is not None
        found = []
        for question in self.questions:
            inputs = self._asking.inputs(question.sample, cell)
            sums = sum_up(prefill(self.loaded, inputs, ()))
            found.append(Shares.of(sums, question.full).get(cell.budget.measure))
        return found

    def error(self, shares: Sequence[float]) -> float | None:
        """Return the standard error of the mean; questions about one video count as one."""
        by_video: dict[Any, list[float]] = {}
        for question, share in zip(self.questions, shares, strict=True):
            by_video.setdefault(question.sample.video, []).append(share)
        means = [fmean(some) for some in by_video.values()]
        return stdev(means) / math.sqrt(len(means)) if len(means) > 1 else None

    def _alike(self, measure: Measure) -> list[int]:
        """Return, for each question, the first one of its size."""
        if measure not in self._sizes:
            first: dict[str, int] = {}
            sizes = [size_of(question.layout, measure) for question in self.questions]
            self._sizes[measure] = [first.setdefault(s, n) for n, s in enumerate(sizes)]
        return self._sizes[measure]


def _opened(asking: Asking, samples: Sequence[Sample], whole: Cell) -> Iterator[Question]:
    failure: Exception | None = None
    opened = 0
    for sample in samples:
        try:
            inputs = asking.inputs(sample, whole)
            run = prefill(asking.loaded, inputs, ())
        except Exception as error:  # a broken file costs its own questions only, as in a table
            failure = error
            continue
        opened += 1
        yield Question(sample, inputs, Full.of(sum_up(run)), run.layout)
    if not opened:
        raise ConfigError(
            f"none of the {len(samples)} questions that are held out for budgets can be asked "
            f"({failure}): repair their files, or hold out others."
        ) from failure


def calibrations(
    asking: Asking,
    samples: Sequence[Sample],
    cells: Sequence[tuple[str, Cell, Sequence[Reducer]]],
) -> Iterator[CalibrationRecord]:
    """Yield the solution of each cell's budget.

    Parameters
    ----------
    asking
        Gives the inputs of questions.
    samples
        Those that are held out.
    cells
        Key, cell and its reducers; cells that are shown the same frames should follow each other.
    """
    held_out: tuple[int | None, HeldOut] | None = None
    for key, cell, reducers in cells:
        frames = cell.setup.frames
        if held_out is None or held_out[0] != frames:
            held_out = frames, HeldOut(asking, samples, cell)
        solution = calibrate(held_out[1], cell, reducers)
        yield CalibrationRecord(key, solution.to_json())


def calibrate(held_out: HeldOut, cell: Cell, reducers: Sequence[Reducer]) -> Solution:
    """Solve the budget of one cell.

    Cells of the same reducers and several targets share what was measured. A second turn is solved
    as a first one. Of a cell that is shown less input the share of the frames is solved, by
    arithmetic; the size of frames stays, because what a model makes of it is its own affair.

    Parameters
    ----------
    held_out
        What to solve it on.
    cell
        With a budget.
    reducers
        Those of the cell.
    """
    assert cell.budget is not None
    if cell.downsampled:
        return fewer_frames(held_out, cell) if cell.frames_share != 1 else as_it_is(held_out, cell)
    budget, seed = cell.budget, cell.seed
    exact = counts_follow_settings(held_out.loaded, held_out.questions[0].inputs, reducers)

    def whole(tried: Sequence[Reducer]) -> list[float]:
        return held_out.shares(tried, budget.measure, seed, exact=exact)

    certain: set[str] = set()

    def evaluate(tried: tuple[Reducer, ...]) -> float:
        if not exact and _name(tried) not in certain:
            few = held_out.shares(tried, budget.measure, seed, few=True)
            if _is_far(few, budget):
                return fmean(few)
        return fmean(whole(tried))

    while True:
        found = solve(
            reducers, budget.target, budget.measure, budget.tolerance, evaluate, exact=exact
        )
        chosen = tuple(
            type(reducer).model_validate(besides_use(settings))
            for reducer, settings in zip(reducers, found.reducers, strict=True)
        )
        if found.reached == fmean(shares := whole(chosen)):
            break
        certain.add(_name(chosen))  # few questions were enough to find it, but not to describe it
    error = None if exact else held_out.error(shares)
    return replace(found, questions=len(held_out.questions), error=error)


def _name(reducers: Sequence[Reducer]) -> str:
    return digest([written(stage) for stage in reducers])


def _is_far(shares: Sequence[float], budget: Budget) -> bool:
    """Return whether a mean is out of the budget's tolerance, whatever more questions say."""
    if len(shares) < FEW_QUESTIONS:
        return False
    error = stdev(shares) / math.sqrt(len(shares))
    return abs(fmean(shares) - budget.target) > budget.tolerance + FAR * error


def fewer_frames(held_out: HeldOut, cell: Cell) -> Solution:
    """Solve the share of the frames that a cell is shown; frames are whole, so it may miss."""
    assert cell.budget is not None
    budget = cell.budget
    sizes = [question.size for question in held_out.questions]
    shape = held_out.loaded.adapter.decoder_shape(held_out.loaded.model)
    share = frames_share(budget.measure, budget.target, sizes, shape)
    found = as_it_is(held_out, replace(cell, frames_share=share))
    missed = not_reached(budget.target, found.reached, f"frames_share={share:g}")
    return replace(found, method="closed form", note="" if found.within else missed)


def as_it_is(held_out: HeldOut, cell: Cell) -> Solution:
    """Measure a cell that is shown less input, and turn nothing."""
    assert cell.budget is not None
    budget = cell.budget
    reached = fmean(held_out.shown(cell))
    return Solution(
        reducers=cell.reducers,
        measure=budget.measure,
        target=budget.target,
        tolerance=budget.tolerance,
        reached=reached,
        within=reaches(reached, budget.target, budget.tolerance),
        method="as it is",
        note=NOTHING_TO_TURN,
        evaluations=1,
        questions=len(held_out.questions),
        frames_share=cell.frames_share,
    )
