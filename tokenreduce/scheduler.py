"""Asks reducers between decoder layers of one prefill, and keeps account of what is left.

Several lists of reducers may share a prefill: as long as their plans are equal, so are the hidden
states, and each layer runs once for all of them. Where plans differ the prefill forks: the first
list goes on in the running forward, the others wait as branches for forwards of their own, which
skip the layers that have run (:mod:`tokenreduce.branch`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from tokenreduce.apply import Tokens, apply_plans, grid_rows
from tokenreduce.attention import Capture, Probe, Want
from tokenreduce.course import Course, Record, Stage
from tokenreduce.errors import ReducerError, TokenReduceError
from tokenreduce.layout import Layout, Role
from tokenreduce.masks import Sight
from tokenreduce.plan import Plan
from tokenreduce.reducer import Reducer
from tokenreduce.sample_view import SampleView
from tokenreduce.view import PastEvent, View


class Surroundings(Protocol):
    """What a prefill asks of the forward that it is part of."""

    def earlier(self, layer: int) -> Tensor:
        """Return ``[batch, past]`` bool: keys that a layer holds already, false at padding."""

    def sight(self, layer: int) -> Sight | None:
        """Return what a layer's queries see; None: every key up to themselves."""

    def earlier_keys(self, layer: int) -> Tensor | None:
        """Return ``[batch, key_heads, past, head_dim]``: those keys; None if there are none."""

    def rope_at(self, layer: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos and sin ``[batch, left, head_dim]`` as ``layer`` would be given them."""


@dataclass(slots=True)
class Prefill:
    """One forward that may be reduced: its tokens, what was seen of it and what was done to it.

    Parameters
    ----------
    courses
        The lists of reducers to ask; all of them have made equal plans so far.
    layers
        The decoder's layers.
    layout
        Where the forward's visual tokens sit, on the decoder's device.
    tokens
        What is left of them.
    token_ids
        Per sample, bytes that stand for its unpadded tokens, for seeding.
    embeddings
        ``[batch, tokens, dim]`` input embeddings.
    rope
        ``(cos, sin)`` as the layer about to run is given them, each ``[batch or 1, tokens,
        head_dim]``; layers of another kind may be given others.
    probe
        Where queries and keys arrive.
    surroundings
        The forward that this is part of.
    offset
        Tokens of earlier turns on the same cache; original positions count them.
    """

    courses: list[Course]
    layers: Sequence[nn.Module]
    layout: Layout
    tokens: Tokens
    token_ids: list[bytes]
    embeddings: Tensor
    rope: tuple[Tensor, Tensor]
    probe: Probe
    surroundings: Surroundings
    offset: int = 0
    failed: list[Course] = field(default_factory=list)  # those whose reducers raised
    forks: list[Fork] = field(default_factory=list)
    seen: dict[int, Tokens] = field(default_factory=dict)
    grid_counts: list[list[int]] = field(default_factory=list)
    totals: list[int] = field(default_factory=list)
    _rope_left: dict[int, tuple[Tensor, tuple[Tensor, Tensor]]] = field(default_factory=dict)
    _text_columns: list[Tensor] = field(default_factory=list)
    _rows_left: list[Tensor] = field(default_factory=list)
    weights: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)
    weights_now: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)

    def before_layer(self, layer: int, hidden: Tensor) -> Tensor:
        """Ask the reducers of the layer before ``layer``, then say what to capture of ``layer``.

        Parameters
        ----------
        layer
            Index of the layer about to run.
        hidden
            ``[batch, left, dim]`` its input.

        Returns
        -------
        Tensor
            Its input after reduction, ``[batch, left', dim]``.
        """
        if not self.totals:
            self.totals = self._counts()
        if any(layer - 1 in stage.layers for course in self.courses for stage in course.stages):
            hidden = self._ask_all(layer - 1, hidden)
        self.enter(layer)
        return hidden

    def enter(self, layer: int) -> None:
        """Say what to capture of ``layer``, which is about to run over the tokens that are left."""
        self._forget(layer)
        self.seen[layer] = self.tokens
        self.grid_counts.append(self._counts())
        self.probe.want = self._want(layer)

    def rope_left(self) -> tuple[Tensor, Tensor]:
        """Return cos and sin ``[batch, left, head_dim]`` of the tokens that are left."""
        cos, sin = self.rope
        if id(cos) not in self._rope_left:
            index = self.tokens.index.clamp(min=0)
            left = (_rows(cos, index), _rows(sin, index))
            self._rope_left[id(cos)] = (cos, left)  # kept, so that its id is not given again
        return self._rope_left[id(cos)][1]

    def text_columns(self, sample: int) -> Tensor:
        """Return the columns of a sample's text rows: text after its last visual token.

        The last token alone, if no text follows.
        """
        if not self._text_columns:
            for row in self.layout.role:
                alive = (row != int(Role.PAD)).nonzero().squeeze(1)
                visual = (row > int(Role.TEXT)).nonzero().squeeze(1)
                start = int(visual[-1]) + 1 if visual.numel() else 0
                after = alive[alive >= start]
                self._text_columns.append(after if after.numel() else alive[-1:])
        return self._text_columns[sample]

    def _ask_all(self, layer: int, hidden: Tensor) -> Tensor:
        """Ask every list of reducers; go on with the first and those whose plans equal its own."""
        states: States = {(): (hidden, self.tokens)}
        groups: dict[Path, list[Course]] = {}
        for course in self.courses:
            try:
                groups.setdefault(self._ask_course(course, layer, states), []).append(course)
            except Exception as error:
                if len(self.courses) == 1:
                    raise
                # One list's failure is not the others'.
                course.error = error
                self.failed.append(course)
        if not groups:
            raise ReducerError(f"no reducer is left: {self.failed[-1].error}")
        (path, self.courses), *others = groups.items()
        hidden, tokens = states[path]
        for other, courses in others:
            self.forks.append(self._fork(layer + 1, courses, *states[other]))
        self._go_on_with(tokens)
        return hidden

    def _fork(self, layer: int, courses: list[Course], hidden: Tensor, tokens: Tokens) -> Fork:
        prefill = replace(
            self,
            courses=courses,
            tokens=tokens,
            failed=[],
            forks=[],
            seen=dict(self.seen),
            grid_counts=list(self.grid_counts),
            _rope_left={},
            _rows_left=[],
            weights=dict(self.weights),
            weights_now={},
        )
        return Fork(layer, prefill, hidden, dict(self.probe.captures))

    def _go_on_with(self, tokens: Tokens) -> None:
        if tokens is not self.tokens:
            self.tokens = tokens
            self._rope_left, self._rows_left, self.weights_now = {}, [], {}

    def _ask_course(self, course: Course, layer: int, states: States) -> Path:
        """Ask the reducers of one list that act after ``layer``, one after the other.

        Parameters
        ----------
        course
            The list.
        layer
            The layer that has run.
        states
            What plans made of hidden states and tokens; those of this list are added.

        Returns
        -------
        tuple
            The plans: the place of its result in ``states``.
        """
        path: Path = ()
        for number, stage in enumerate(course.stages):
            if layer not in stage.layers:
                continue
            hidden, tokens = states[path]
            self._go_on_with(tokens)
            started = time.perf_counter()
            plans, before = self._plans(course, number, layer, hidden)
            if not any(plan is not None for plan in plans):
                continue
            planned = time.perf_counter()
            path = (*path, self._name_of(plans))
            if path not in states:
                states[path] = apply_plans(hidden, tokens, self.layout, plans)
            applied = time.perf_counter()
            self._go_on_with(states[path][1])
            seconds = planned - started, applied - planned
            self._record(course, number, layer, plans, before, seconds)
        return path

    def _plans(
        self, course: Course, number: int, layer: int, hidden: Tensor
    ) -> tuple[list[Plan | None], list[int]]:
        """Return a reducer's plan for each sample, and how many tokens each has before it."""
        plans: list[Plan | None] = []
        before: list[int] = []
        for sample in range(self.layout.batch):
            rows, columns = grid_rows(self.tokens, self.layout, sample)
            before.append(int(columns.numel()))
            plan = None
            if columns.numel():
                view = SampleView(self, course, number, layer, sample, hidden, rows, columns)
                plan = _plan(course.stages[number].reducer, view, sample)
            if plan is not None and plan.kept == before[-1]:
                plan = None
            plans.append(plan)
        return plans, before

    def _name_of(self, plans: Sequence[Plan | None]) -> PlanName:
        """Return what stands for plans: equal for equal ones. A list that is alone needs none."""
        if len(self.courses) == 1:
            return ()
        return tuple(None if plan is None else plan.slot.cpu().numpy().tobytes() for plan in plans)

    def _record(
        self,
        course: Course,
        number: int,
        layer: int,
        plans: Sequence[Plan | None],
        before: Sequence[int],
        seconds: tuple[float, float],
    ) -> None:
        for sample, plan in enumerate(plans):
            if plan is None:
                continue
            event = PastEvent(layer, before[sample], plan.kept, plan.note)
            course.events[number, sample] = (*course.events.get((number, sample), ()), event)
            course.records.append(
                Record(
                    layer,
                    number,
                    sample,
                    before[sample],
                    plan,
                    grid_rows(self.tokens, self.layout, sample)[1],
                    self.tokens.owner[sample],
                    *seconds,
                )
            )

    def _text_rows(self) -> list[Tensor]:
        """Return, per sample, the rows of :meth:`text_columns` among the tokens that are left."""
        if not self._rows_left:
            samples = range(self.layout.batch)
            self._rows_left = [self.tokens.rows_of(b, self.text_columns(b)) for b in samples]
        return self._rows_left

    def _counts(self) -> list[int]:
        """Return, per sample, how many grid tokens are left."""
        return [len(grid_rows(self.tokens, self.layout, b)[1]) for b in range(self.layout.batch)]

    def _stages(self) -> Iterator[Stage]:
        for course in self.courses:
            yield from course.stages

    def _want(self, layer: int) -> Want | None:
        asked: set[str] = set()
        for stage in self._stages():
            needs = stage.needs
            if any(layer + back in stage.layers for back in range(needs.history + 1)):
                asked |= {*needs.attention, *(["keys"] if needs.keys else [])}
        if not asked:
            return None
        earlier = self.surroundings.earlier(layer)
        padded = self.tokens.padded or (earlier.shape[1] > 0 and not bool(earlier.all()))
        rows = self._text_rows() if asked & {"text", "last"} else []
        return Want(
            layer,
            self.layers[layer],
            rows,
            self.tokens.index,
            "all" in asked,
            earlier,
            self.surroundings.sight(layer),
            padded,
        )

    def _forget(self, layer: int) -> None:
        """Let go of layers that no reducer can look back to."""
        oldest = layer - 1 - max((stage.needs.history for stage in self._stages()), default=0)
        for kept in (self.probe.captures, self.seen):
            for gone in [k for k in kept if k < oldest]:
                del kept[gone]
        self.weights = {key: value for key, value in self.weights.items() if key[0] >= oldest}


class Fork(NamedTuple):
    """Where lists of reducers part from those that the running forward goes on with.

    Attributes
    ----------
    layer
        The layer that runs next.
    prefill
        Theirs, up to here.
    hidden
        ``[batch, left, dim]`` input of that layer, reduced already.
    captures
        Attention of the layers that reducers may still look back to.
    """

    layer: int
    prefill: Prefill
    hidden: Tensor
    captures: dict[int, Capture]


PlanName = tuple[bytes | None, ...]
"""Per sample the plan's slots."""

Path = tuple[PlanName, ...]
"""The plans of a list of reducers after one layer."""

States = dict[Path, tuple[Tensor, Tokens]]
"""Hidden states and tokens after plans."""


def _plan(reducer: Reducer, view: View, sample: int) -> Plan | None:
    """Ask a reducer; whatever it raises is named with the reducer, layer and sample."""
    try:
        with torch.no_grad():
            plan = reducer.plan(view)
        if plan is not None:
            if not isinstance(plan, Plan):
                raise ReducerError(f"plan() returned {type(plan).__name__}: return a Plan or None.")
            plan.validate(len(view), reducer.name)
    except TokenReduceError:
        raise
    except Exception as error:
        raise ReducerError(
            f"reducer '{reducer.name}' failed after layer {view.layer} on sample {sample}: "
            f"{type(error).__name__}: {error}"
        ) from error
    return plan


def _rows(values: Tensor, index: Tensor) -> Tensor:
    index = index.to(values.device)
    if index.shape[0] == 1:
        return values.index_select(1, index[0])
    values = values.expand(index.shape[0], -1, -1)
    return values.gather(1, index.unsqueeze(2).expand(-1, -1, values.shape[2]))
