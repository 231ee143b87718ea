"""The reducer interface: a frozen configuration with one pure method, ``plan(view)``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from tokenreduce.plan import Plan
from tokenreduce.schedule import keep_count

if TYPE_CHECKING:
    from torch import Tensor

    from tokenreduce.view import View

AttentionRows = Literal["text", "last", "all"]

Layer = Annotated[
    int | float,
    Field(
        ge=-1,
        description="0-based index of the layer after which to act (-1: before the first), or a "
        "fraction f of the depth in (0, 1), meaning index round(f * layers) - 1",
    ),
]
"""Field type of a layer setting; resolve it with :func:`tokenreduce.schedule.resolve_layer`."""

Ratio = Annotated[
    float, Field(ge=0, lt=1, description="share of the current visual tokens to remove, in [0, 1)")
]
"""Field type of a share to remove; :func:`tokenreduce.schedule.keep_count` makes it a count."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What the core must have at hand when it asks a reducer; nothing else is computed.

    Attributes
    ----------
    attention
        Query rows whose attention is asked for: ``text`` (also for row indices), ``last``, ``all``.
    history
        How many layers back, 0 to 2.
    keys
        Whether ``view.keys`` is read.
    next_layer
        Whether ``view.attention(layer="next")`` is called.
    """

    attention: frozenset[AttentionRows] = field(default_factory=frozenset)
    history: int = 0
    keys: bool = False
    next_layer: bool = False


class Reducer(BaseModel, ABC):
    """A token reduction method. Its fields are its configuration; it keeps no state.

    A subclass sets ``name`` (its name in YAML and the stem of its file) and writes two methods:
    :meth:`acts_after` and :meth:`plan`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    budget_fields: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """Settings that a budget solver may turn, in order, with their bounds."""

    @abstractmethod
    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        """Return the layers after which to be asked, for a model of ``num_layers`` layers.

        Raises
        ------
        ConfigError
            If a setting points outside the model.
        """

    def needs(self) -> Needs:
        """Return what :meth:`plan` reads beyond coordinates and hidden states."""
        return Needs()

    @abstractmethod
    def plan(self, view: View) -> Plan | None:
        """Decide what happens to the visual tokens of one sample after ``view.layer``.

        Must be pure: the same view gives the same plan, nothing is written anywhere. A view has
        at least one token: samples that have none left are not asked about.

        Returns
        -------
        Plan or None
            None leaves the sample as it is.
        """


class ScoringReducer(Reducer):
    """A reducer that drops the lowest-scored tokens: subclasses write :meth:`score` and a ratio."""

    @abstractmethod
    def ratio_at(self, layer: int, num_layers: int) -> float:
        """Return the share to remove after ``layer``, in [0, 1)."""

    @abstractmethod
    def score(self, view: View) -> Tensor:
        """Return ``[n]`` scores of the view's tokens, higher = keep."""

    def plan(self, view: View) -> Plan | None:
        """Keep the highest scores; of equal ones the earlier tokens."""
        keep = keep_count(len(view), self.ratio_at(view.layer, view.num_layers))
        if keep == len(view):
            return None
        scores = self.score(view)
        # A stable sort settles ties by position, so that a plan never depends on the kernel.
        best = scores.argsort(descending=True, stable=True)[:keep]
        return Plan.keep(best, len(view), scores=scores)
