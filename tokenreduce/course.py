"""One list of reducers on its way through a prefill: where it acts, and what it has done so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import index
from typing import NamedTuple

from torch import Tensor

from tokenreduce.errors import ConfigError, ReducerError
from tokenreduce.plan import Plan
from tokenreduce.reducer import Needs, Reducer
from tokenreduce.view import PastEvent


@dataclass(frozen=True, slots=True)
class Stage:
    """One reducer with what it asked for on this model."""

    reducer: Reducer
    layers: frozenset[int]
    needs: Needs


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One reduction as it happened, in tensors; the trace is made of it when it is read."""

    layer: int
    stage: int
    sample: int
    before: int
    plan: Plan
    positions: Tensor
    owner: Tensor
    plan_seconds: float
    apply_seconds: float


class Variant(NamedTuple):
    """Reducers that are composed in order, and the seed of their random choices."""

    reducers: Sequence[Reducer]
    seed: int = 0


@dataclass(slots=True, eq=False)
class Course:
    """One variant in one prefill.

    Attributes
    ----------
    number
        Which of the session's variants it is.
    stages
        Its reducers.
    seed
        Of their random choices.
    records
        What they did, in order.
    events
        The same for their own eyes, by stage and sample.
    error
        What one of them raised; None: nothing.
    """

    number: int
    stages: tuple[Stage, ...]
    seed: int
    records: list[Record] = field(default_factory=list)
    events: dict[tuple[int, int], tuple[PastEvent, ...]] = field(default_factory=dict)
    error: Exception | None = None


def stages(reducers: Sequence[Reducer], num_layers: int, first_layer: int) -> tuple[Stage, ...]:
    """Resolve the layers of ``reducers`` on a model.

    Parameters
    ----------
    reducers
        In the order in which they act where two meet on a layer.
    num_layers
        Decoder layers of the model.
    first_layer
        First layer after which its adapter lets tokens be reduced.

    Raises
    ------
    ConfigError
        If a layer is before ``first_layer``, the last one, or outside the model.
    ReducerError
        If a reducer does not say which layers they are.
    """
    resolved = []
    for reducer in reducers:
        layers = _layers(reducer, num_layers)
        # After the last layer nothing is left to compute or to cache.
        wrong = sorted(k for k in layers if not first_layer <= k < num_layers - 1)
        if wrong:
            raise ConfigError(
                f"reducer '{reducer.name}' asks to act after layer {wrong[0]}, but on this model "
                f"tokens can be reduced after layers {first_layer} to {num_layers - 2} only."
            )
        resolved.append(Stage(reducer, layers, reducer.needs()))
    return tuple(resolved)


def _layers(reducer: Reducer, num_layers: int) -> frozenset[int]:
    try:
        return frozenset(map(index, reducer.acts_after(num_layers)))
    except ConfigError as error:
        said = str(error).removeprefix(f"{reducer.name}: ")
        raise ConfigError(f"reducer '{reducer.name}' on this model: {said}") from None
    except Exception as error:  # of a reducer that anybody may have written
        raise ReducerError(
            f"reducer '{reducer.name}' does not say after which of {num_layers} layers it acts "
            f"({type(error).__name__}: {error}): acts_after() returns their indices."
        ) from error
