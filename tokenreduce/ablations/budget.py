"""Equal budgets: turn the settings of reducers until what they leave is a wanted share.

A share is that of the unreduced prefill: of visual tokens over all layers (Img-Memory), of FLOPs or
of the bytes of keys and values.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from tokenreduce.ablations.knobs import COARSE, Knob, knobs_of
from tokenreduce.ablations.search import Steps, nearest_calibrated, nearest_exact
from tokenreduce.cells import Budget, Cell, Measure, digest
from tokenreduce.config import written
from tokenreduce.errors import ConfigError
from tokenreduce.reducer import Reducer

Evaluate = Callable[[tuple[Reducer, ...]], float]
"""The mean share over the held-out questions under some reducers."""

Neighbour = tuple[str, float]
"""A setting, as ``ratio=0.3``, and the share at it."""

Method = Literal["exact", "calibrated", "closed form", "as it is"]
"""How settings were found: see :func:`solve`; by arithmetic; or there was nothing to turn."""

NOTHING_TO_TURN = "no setting to turn"

ROUNDING = 1e-9
"""A gap this small is that of floating point, not of a budget."""


@dataclass(frozen=True, slots=True)
class Solution:
    """The settings that come nearest to a budget.

    Attributes
    ----------
    reducers
        As they would stand in YAML, every setting written out.
    measure, target, tolerance
        What was asked for; see :class:`tokenreduce.cells.Budget`.
    reached
        The share on the held-out questions.
    within
        Whether that is within the tolerance.
    method
        How the settings were found.
    note
        Why the target was not reached and what is nearest, or what else there is to say; may be
        empty.
    below, above
        Of the evaluated settings those with the next share at or below the target, and above it;
        None where there was none.
    evaluations
        Lists of settings that were measured.
    questions
        Held-out questions that the share is a mean over; 0: not known.
    error
        Standard error of that mean, by videos; None where counts do not depend on data.
    frames_share
        Share of the frames that the model is shown.
    """

    reducers: tuple[Mapping[str, Any], ...]
    measure: Measure
    target: float
    tolerance: float
    reached: float
    within: bool
    method: Method
    note: str = ""
    below: Neighbour | None = None
    above: Neighbour | None = None
    evaluations: int = 0
    questions: int = 0
    error: float | None = None
    frames_share: float = 1.0

    def to_json(self) -> str:
        """Return the solution as a JSON document."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Solution:
        """Read a solution back from :meth:`to_json`."""
        found = json.loads(text)
        for name in ("below", "above"):
            found[name] = None if found[name] is None else tuple(found[name])
        return cls(**{**found, "reducers": tuple(found["reducers"])})

    def applied(self, cell: Cell) -> Cell:
        """Return ``cell`` with the settings found."""
        budget = Budget(self.measure, self.target, self.tolerance, self.reached, self.note)
        solved = cell.solved(self.reducers, budget)
        return replace(solved, frames_share=self.frames_share)


def solve(
    reducers: Sequence[Reducer],
    target: float,
    measure: Measure,
    tolerance: float,
    evaluate: Evaluate,
    *,
    exact: bool = False,
) -> Solution:
    """Turn ``budget_fields`` until the share is the target's, or as near to it as can be.

    In a composed list the last reducer that declares any is turned first. A further setting, and
    then an earlier reducer, is turned only where the ones before it do not reach the target; they
    stay where they came nearest.

    Parameters
    ----------
    reducers
        Composed in order.
    target
        Share wanted, in (0, 1].
    measure
        What is counted.
    tolerance
        How far from the target counts as reached.
    evaluate
        Measures the share; the same settings are measured once.
    exact
        Whether counts follow from the settings alone. The share is then monotone in each setting,
        and the nearest of all its values to four decimals is found by bisection. Otherwise
        settings have three decimals, and a further one is turned where a fifth of the tolerance is
        missed: other questions have another mean, and the rest is left for that.

    Raises
    ------
    ConfigError
        If the target is outside (0, 1].
    """
    if not 0 < target <= 1:
        raise ConfigError(
            f"budget {measure} {target} is outside (0, 1]: give a share of the unreduced prefill."
        )
    search = _Search(target, tolerance, exact, evaluate)
    best = _Turned(tuple(reducers), math.inf)
    for knob in knobs_of(reducers):
        found = search.turn(knob, best)
        if abs(found.share - target) < abs(best.share - target):
            best = found
        if abs(best.share - target) <= search.enough + ROUNDING:
            break
    if not best.knobs:
        best = replace(best, share=search.share(best.reducers))
    return Solution(
        reducers=tuple(written(stage) for stage in best.reducers),
        measure=measure,
        target=target,
        tolerance=tolerance,
        reached=best.share,
        within=search.within(best.share),
        method="as it is" if not best.knobs else "exact" if exact else "calibrated",
        note=_note(target, best, search.within(best.share)),
        below=best.below,
        above=best.above,
        evaluations=len(search.shares),
    )


@dataclass(frozen=True, slots=True)
class _Turned:
    """Where some knobs came nearest; ``below`` and ``above`` are the last one's neighbours."""

    reducers: tuple[Reducer, ...]
    share: float
    knobs: tuple[Knob, ...] = ()
    below: Neighbour | None = None
    above: Neighbour | None = None


class _Search:
    """Turns one knob after the other; measures no settings twice."""

    def __init__(self, target: float, tolerance: float, exact: bool, evaluate: Evaluate) -> None:
        self._target, self._tolerance, self._exact = target, tolerance, exact
        # Other questions have another mean: the rest of the tolerance is left for that.
        self.enough = tolerance if exact else tolerance / 5
        self._evaluate = evaluate
        self.shares: dict[str, float] = {}

    def within(self, share: float) -> bool:
        """Return whether a share counts as reached."""
        return reaches(share, self._target, self._tolerance)

    def share(self, reducers: tuple[Reducer, ...]) -> float:
        """Return the share under some reducers."""
        key = digest([written(stage) for stage in reducers])
        if key not in self.shares:
            self.shares[key] = self._evaluate(reducers)
        return self.shares[key]

    def turn(self, knob: Knob, before: _Turned) -> _Turned:
        """Return where one more knob comes nearest to the target."""
        start = before.reducers
        steps = Steps(lambda step: self.share(knob.turned(start, step)), knob.last, self._target)
        if self._exact:
            found = _rounded(knob, steps, nearest_exact(steps))
        else:
            grain = 1 if knob.whole else COARSE
            found = nearest_calibrated(steps, self.enough, self.enough, grain)

        def neighbour(step: int | None) -> Neighbour | None:
            if step is None:
                return None
            same = steps.seen[step] == steps.seen[found]
            return knob.written(knob.turned(start, found if same else step)), steps.seen[step]

        return _Turned(
            knob.turned(start, found),
            steps.seen[found],
            (*before.knobs, knob),
            neighbour(steps.next_below),
            neighbour(steps.next_above),
        )


def _rounded(knob: Knob, steps: Steps, step: int) -> int:
    """Return a step with fewer decimals that is as near to the target, if there is one."""
    for decimals in (1, 2, 3):
        short = knob.step_of(round(knob.value(step), decimals))
        if abs(steps.gap(short)) <= abs(steps.gap(step)):
            return short
    return step


def _note(target: float, found: _Turned, within: bool) -> str:
    if not found.knobs:
        return NOTHING_TO_TURN
    if within:
        return ""
    place = ", ".join(knob.written(found.reducers) for knob in found.knobs)
    return not_reached(target, found.share, place)


def reaches(share: float, target: float, tolerance: float) -> bool:
    """Return whether a share counts as the target's."""
    return abs(share - target) <= tolerance + ROUNDING


def not_reached(target: float, share: float, place: str) -> str:
    """Return the sentence on a target that is out of reach, and what is nearest, and where."""
    return f"cannot reach {target:g}: nearest is {share:.3f} at {place}"
