"""Checks of plans on views over random tensors: no model runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from tokenreduce.errors import ConfigError
from tokenreduce.plan import Plan
from tokenreduce.reducer import Reducer, ScoringReducer
from tokenreduce.testing.check import Check, require
from tokenreduce.testing.views import AttentionOf, Cell, FakeView, Prefill, grid, prefill

DEPTHS = (14, 28, 32, 60, 8)
SHARES = (0.1, 0.33, 0.9)


def depth_for(reducer: Reducer) -> int:
    """Return the first usual depth that the reducer's layers fit.

    Raises
    ------
    ConfigError
        If there is none.
    """
    refusal = ConfigError("no depth was tried")
    for depth in DEPTHS:
        try:
            reducer.acts_after(depth)
        except ConfigError as error:
            refusal = error
        else:
            return depth
    raise refusal


def pure_and_deterministic(reducer: Reducer) -> None:
    """The same view gives the same plan, and asking leaves no trace anywhere."""
    twin = type(reducer).model_validate(reducer.model_dump())
    for view, again in zip(_views(reducer, FULL), _views(twin, FULL), strict=True):
        before, state, lot = _tensors(view), _state(reducer), torch.get_rng_state()
        first = _answer(reducer, view)
        require(
            torch.equal(lot, torch.get_rng_state()),
            "plan() drew from torch's global generator: draw from view.generator",
        )
        require(_state(reducer) == state, "plan() wrote to the reducer, which must keep no state")
        after = _tensors(view)
        wrote = [name for name in before if not torch.equal(before[name], after[name])]
        require(not wrote, f"plan() wrote into the view: {wrote}")
        for other, asked in ((reducer, view), (twin, again)):
            require(
                _same(first, _answer(other, asked)),
                f"after layer {view.layer}, the same view gave two different plans",
            )


def chronological(reducer: Reducer) -> None:
    """Output tokens are numbered by their first members, after earlier merges too."""
    for view in _views(reducer, FULL, merged=True):
        plan = _answer(reducer, view)
        if plan is not None:
            plan.validate(len(view), reducer.name)


def ragged_grids(reducer: Reducer) -> None:
    """Grids that an earlier reducer left gaps in are reduced as well, down to a single token."""
    for cells in (GAPS, grid(1, 1, 5), grid(5, 1, 1), grid(1, 1, 1)):
        for view in _views(reducer, cells):
            plan = _answer(reducer, view)
            if plan is not None:
                plan.validate(len(view), reducer.name)


def several_videos(reducer: Reducer) -> None:
    """Tokens of different images or videos never merge."""
    for view in _views(reducer, SEVERAL):
        plan = _answer(reducer, view)
        if plan is None:
            continue
        for slot in range(plan.kept):
            items = sorted(set(view.item[plan.slot == slot].tolist()))
            require(len(items) == 1, f"after layer {view.layer}, items {items} share a token")


def identity_at_zero(reducer: Reducer) -> None:
    """With every budget at 0, nothing goes."""
    zero = {name: 0.0 for name, (low, _) in reducer.budget_fields.items() if low == 0}
    idle = _with(reducer, zero)
    require(idle is not None, f"{zero} is refused")
    assert idle is not None
    for cells in (FULL, GAPS, SEVERAL):
        done = _prefill(idle, cells)
        require(not done.plans, f"{zero} removes {done.total - len(done.members)} tokens")


def counts_as_declared(reducer: Reducer) -> None:
    """Counts follow the budget at 0.1, 0.33 and 0.9, and a budget never takes the last token."""
    for name, (low, high) in reducer.budget_fields.items():
        values = [value for value in SHARES if low <= value <= high]
        turned = [one for one in (_with(reducer, {name: value}) for value in values) if one]
        turned = turned or [one for one in (_with(reducer, {name: v}) for v in (low, high)) if one]
        for cells in (FULL, GAPS, grid(1, 2, 5), grid(1, 1, 3), grid(1, 1, 1)):
            held = []
            for one in turned:
                done = _prefill(one, cells)
                require(done.members, f"{name}={getattr(one, name)} left none of {len(cells)}")
                held.append(sum(done.held))
                if isinstance(one, ScoringReducer):
                    _require_exact(one, done)
            require(
                held == sorted(held) or held == sorted(held, reverse=True),
                f"of {len(cells)} tokens, {name} at {[getattr(one, name) for one in turned]} keeps "
                f"{held} over all layers: more budget must not go both ways",
            )


def _require_exact(reducer: ScoringReducer, done: Prefill) -> None:
    """Compare each count with the declared ratio, by exact arithmetic: half up, never zero."""
    depth, plans = depth_for(reducer), dict(done.plans)
    left = done.total
    for layer in reducer.acts_after(depth):
        ratio = Fraction(str(reducer.ratio_at(layer, depth)))
        expected = max(1, math.floor(left * (1 - ratio) + Fraction(1, 2)))
        kept = plans[layer].kept if layer in plans else left
        require(
            kept == expected,
            f"after layer {layer}, {kept} of {left} tokens stay at ratio {float(ratio)}: "
            f"{expected} were declared (rounded half up, at least one)",
        )
        left = kept


FULL = grid(4, 3, 3)
GAPS = [cell for number, cell in enumerate(grid(4, 3, 3)) if number % 5 != 2 and number % 7 != 3]
SEVERAL = [*grid(3, 3, 3), *grid(2, 3, 3, item=1), *grid(1, 1, 3, item=2)]


def _answer(reducer: Reducer, view: FakeView) -> Plan | None:
    with torch.no_grad():
        return reducer.plan(view)


def _random(tokens: int, seed: int) -> dict[str, Any]:
    def draw(salt: int, *shape: int) -> Tensor:
        return torch.rand(shape, generator=torch.Generator().manual_seed(1000 * seed + salt))

    def attention(rows: str, layer: int) -> Tensor:
        return draw(100 * len(rows) + layer, 2, tokens)

    return {
        "attention": attention,
        "keys": lambda layer: draw(500 + layer, tokens, 2, 8) - 0.5,
        "hidden": lambda layer: draw(600 + layer, tokens, 16) - 0.5,
        "text": draw(700, 3, 16) - 0.5,
    }


def _views(
    reducer: Reducer, cells: list[Cell], *, merged: bool = False, seed: int = 0
) -> Iterator[FakeView]:
    """Yield a view after each layer that the reducer acts after."""
    depth = depth_for(reducer)
    tensors = _random(len(cells), seed)
    for layer in reducer.acts_after(depth):
        yield FakeView(
            cells,
            layer=layer,
            num_layers=depth,
            size=[1 + (3 * j) % 4 for j in range(len(cells))] if merged else None,
            attention=tensors["attention"],
            keys=tensors["keys"](layer),
            hidden=tensors["hidden"](layer),
            text_hidden=tensors["text"],
            text_embeddings=tensors["text"],
            visual_embeddings=tensors["hidden"](-1),
            needs=reducer.needs(),
            seed=seed,
        )


def _prefill(reducer: Reducer, cells: list[Cell]) -> Prefill:
    """Pretend a prefill in which attention stays the same, so that counts depend on settings."""
    tensors = _random(len(cells), 3)
    fixed: Tensor = tensors["attention"]("text", 0)
    attention: AttentionOf = lambda rows, layer: fixed  # noqa: E731 - a value of the same shape
    rest = {name: tensors[name] for name in ("keys", "hidden", "text")}
    with torch.no_grad():
        return prefill(reducer, cells, depth_for(reducer), attention=attention, **rest)


def _with(reducer: Reducer, settings: dict[str, float]) -> Reducer | None:
    """Return the reducer with other settings; None if they are refused."""
    try:
        return type(reducer)(**{**reducer.model_dump(), **settings})
    except ValueError:
        return None


def _tensors(view: FakeView) -> dict[str, Tensor]:
    found = {name: value for name, value in vars(view).items() if isinstance(value, Tensor)}
    return {name: value.clone() for name, value in found.items()}


def _state(reducer: Reducer) -> tuple[str, str]:
    return repr(reducer.__dict__), repr(reducer.__pydantic_private__)


def _same(one: Plan | None, other: Plan | None) -> bool:
    if one is None or other is None:
        return one is other
    scores = one.scores is other.scores
    if one.scores is not None and other.scores is not None:
        scores = torch.equal(one.scores, other.scores)
    return torch.equal(one.slot, other.slot) and one.note == other.note and scores


def _zero_allowed(reducer: Reducer) -> bool:
    return any(low == 0 for low, _ in reducer.budget_fields.values())


def _has_budget(reducer: Reducer) -> bool:
    return bool(reducer.budget_fields)


PLAN_CHECKS = (
    Check(pure_and_deterministic),
    Check(chronological),
    Check(ragged_grids),
    Check(several_videos),
    Check(identity_at_zero, _zero_allowed),
    Check(counts_as_declared, _has_budget),
)
