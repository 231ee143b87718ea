"""A prefill that goes on where another one with equal layers so far has left it.

The model's own forward runs, with the same inputs: embeddings, rotary embeddings and masks are made
anew, layers that have run are passed through, and the first one that has not is given the hidden
states, the cache and the attention that the other prefill had there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from tokenreduce.cache import Held, ReducedCache
from tokenreduce.errors import UnsupportedError
from tokenreduce.scheduler import Fork


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """What a forward needs to go on from a fork.

    Attributes
    ----------
    fork
        Where the prefills part.
    held
        What each layer before the fork holds.
    now
        Positions by the identity of their tokens, as :class:`tokenreduce.step.Step` keeps them: so
        layers that hold the same go on sharing one object.
    kept_alive
        What those identities belong to.
    cached
        The cache's layers before the fork. Layers grow by making new tensors, so these stay.
    valid
        ``[batch, tokens]`` bool: the prompts, false at padding.
    blocks
        See :class:`tokenreduce.step.Step`.
    """

    fork: Fork
    held: tuple[Held | None, ...]
    now: dict[int, Held]
    kept_alive: tuple[object, ...]
    cached: tuple[Any, ...]
    valid: Tensor
    blocks: Tensor | None

    @property
    def variants(self) -> list[int]:
        """Numbers of the variants that go on here."""
        return [course.number for course in self.fork.prefill.courses]

    def check(self, valid: Tensor, past: int) -> None:
        """Check that a forward is given the prompts of the one that was left.

        Raises
        ------
        UnsupportedError
            If it is not.
        """
        same = past == 0 and valid.shape == self.valid.shape
        if not same or not bool((valid == self.valid.to(valid.device)).all()):
            raise UnsupportedError(
                "this forward is to go on where another one has left off, but its prompts are of "
                f"shape {tuple(valid.shape)} after {past} tokens, not {tuple(self.valid.shape)} "
                "after 0: give it the same inputs."
            )

    def fill(self, cache: ReducedCache) -> None:
        """Give an empty cache what the layers before the fork have written."""
        cache.layers[: len(self.cached)] = [copy(layer) for layer in self.cached]


def cached_layers(cache: ReducedCache | None, count: int) -> tuple[Any, ...]:
    """Return the first ``count`` layers of a cache as they are now."""
    return tuple(copy(layer) for layer in cache.layers[:count]) if cache is not None else ()


@contextmanager
def passed_through(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Make decoder layers return their input while the context is open."""
    own = [layer.__dict__.get("forward") for layer in layers]
    for layer in layers:
        layer.__dict__["forward"] = _pass
    try:
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            if forward is None:
                del layer.__dict__["forward"]
            else:
                layer.__dict__["forward"] = forward


def _pass(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return hidden_states
