"""Reducers that are asked as ever, but see attention of our making.

Attention of random weights is noise, and so is the schedule of a reducer that follows it. A pattern
puts fixed values in the place of the scores *after* these have been computed, so that the schedule
is known and the cost is the real one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from tokenreduce.view import Heads, Rows, View

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tokenreduce.plan import Plan
    from tokenreduce.reducer import Reducer

Pattern = Literal["model", "published", "falling"]
PATTERNS: tuple[Pattern, ...] = ("model", "published", "falling")
"""``model``: what the weights say. ``published``: the same in every layer, so that nothing shrinks
and only the forced schedule acts. ``falling``: all frames but the last shrink in every layer, so
that a reducer that waits for that is triggered whenever it is asked."""

PERIOD = 97

Around = Callable[[str, Callable[[], Any]], Any]
"""Runs a call and returns its result; the name says what is run."""


def plainly(name: str, call: Callable[[], Any]) -> Any:
    """Run ``call``, and do nothing besides."""
    return call()


def synthetic(view: View, layer: int, pattern: Pattern) -> Tensor:
    """Return ``[n]`` float32: attention of the view's tokens after ``layer`` by a pattern."""
    import torch

    if pattern == "falling":
        return torch.where(view.frame == view.frame.max(), 2.0**layer, 1.0)
    # Some order among tokens, which no layer changes.
    return 1 + (view.index % PERIOD).float() / PERIOD


class SeenView(View):
    """A view whose reads are announced, and whose attention may follow a pattern.

    Parameters
    ----------
    view
        What the core made.
    pattern
        What attention to answer with.
    around
        Runs, as ``scoring``, each read that the core computes something for.
    """

    def __init__(self, view: View, pattern: Pattern, around: Around) -> None:
        self._view, self._pattern, self._around = view, pattern, around
        for name in View.__annotations__:
            setattr(self, name, getattr(view, name))

    def attention(
        self,
        rows: Rows | Sequence[int] = "text",
        back: int = 0,
        heads: Heads = "mean",
        layer: Literal["this", "next"] = "this",
    ) -> Tensor:
        """See :meth:`tokenreduce.view.View.attention`."""
        ask = self._view.attention
        real: Tensor = self._around("scoring", lambda: ask(rows, back, heads, layer))
        if self._pattern == "model":
            return real
        asked = self.layer + 1 if layer == "next" else self.layer - back
        made: Tensor = self._around("pattern", lambda: synthetic(self, asked, self._pattern))
        return made.expand_as(real)

    @property
    def keys(self) -> Tensor:
        """See :attr:`tokenreduce.view.View.keys`."""
        keys: Tensor = self._around("scoring", lambda: self._view.keys)
        return keys

    @property
    def hidden(self) -> Tensor:
        """See :attr:`tokenreduce.view.View.hidden`."""
        hidden: Tensor = self._around("scoring", lambda: self._view.hidden)
        return hidden

    @property
    def text_hidden(self) -> Tensor:
        """See :attr:`tokenreduce.view.View.text_hidden`."""
        return self._view.text_hidden

    @property
    def text_embeddings(self) -> Tensor:
        """See :attr:`tokenreduce.view.View.text_embeddings`."""
        return self._view.text_embeddings

    @property
    def visual_embeddings(self) -> Tensor:
        """See :attr:`tokenreduce.view.View.visual_embeddings`."""
        return self._view.visual_embeddings

    @property
    def generator(self) -> torch.Generator:
        """See :attr:`tokenreduce.view.View.generator`."""
        return self._view.generator


def seen_by(reducer: Reducer, pattern: Pattern, around: Around = plainly) -> Reducer:
    """Return ``reducer`` with the same settings, asked with a :class:`SeenView`.

    Parameters
    ----------
    reducer
        What is asked.
    pattern
        What attention it sees.
    around
        Runs each ``plan``, and in it each ``scoring``.
    """
    return asked_with(reducer, lambda view: SeenView(view, pattern, around), around)


def asked_with(reducer: Reducer, see: Callable[[View], View], around: Around = plainly) -> Reducer:
    """Return ``reducer`` with the same settings, asked with ``see(view)`` in place of each view.

    Parameters
    ----------
    reducer
        What is asked.
    see
        Makes what it sees of what the core made.
    around
        Runs each ``plan``.
    """
    kind: Any = type(reducer)

    def plan(self: Any, view: View) -> Plan | None:
        seen = see(view)
        made: Plan | None = around("plan", lambda: kind.plan(self, seen))
        return made

    seeing: Any = type(kind.__name__, (kind,), {"plan": plan, "__module__": kind.__module__})
    same: Reducer = seeing.model_validate(reducer.model_dump())
    return same
