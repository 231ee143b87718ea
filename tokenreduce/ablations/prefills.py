"""Prefills without an answer, and what is left of them as shares of the unreduced ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenreduce.cells import Measure
from tokenreduce.errors import UnsupportedError
from tokenreduce.inference import generate
from tokenreduce.layout import Layout, Role
from tokenreduce.trace_builder import Finished, Totals, sum_up

if TYPE_CHECKING:
    from tokenreduce.inference import Loaded
    from tokenreduce.reducer import Reducer


class Full(NamedTuple):
    """Counts of the unreduced prefill; tokens are those of one layer."""

    layers: int
    visual_tokens: int
    flops: int
    kv_bytes: int

    @classmethod
    def of(cls, sums: Totals) -> Full:
        """Return the counts that those of a prefill are to be compared with."""
        layers = len(sums.tokens_per_layer[0])
        return cls(layers, sums.visual_tokens[0], sums.flops_full, sums.kv_bytes_full)


class Shares(NamedTuple):
    """What is left of one prefill, as shares of the unreduced one."""

    img_memory: float
    flops: float
    kv_bytes: float

    @classmethod
    def of(cls, sums: Totals, full: Full) -> Shares:
        """Return the shares of a prefill."""
        held = sum(sums.tokens_per_layer[0])
        return cls(
            held / (full.layers * full.visual_tokens),
            sums.flops / full.flops,
            sums.kv_bytes / full.kv_bytes,
        )

    def get(self, measure: Measure) -> float:
        """Return the share that a budget counts."""
        share: float = getattr(self, measure)
        return share


def prefill(
    loaded: Loaded, inputs: Mapping[str, Any], reducers: Sequence[Reducer], *, seed: int = 0
) -> Finished:
    """Run the prefill of one question, up to its first token.

    Parameters
    ----------
    loaded
        The model.
    inputs
        From :meth:`tokenreduce.inference.EncodedVideo.inputs`.
    reducers
        Composed in order.
    seed
        Of the reducers' random choices.

    Raises
    ------
    UnsupportedError
        If the inputs have no visual tokens.
    """
    session = loaded.session(reducers, seed)
    with session.attached():
        generate(loaded, inputs, 1)
    if not session.finished:
        raise UnsupportedError("the prompt has no visual tokens, so there is no share to measure.")
    return session.finished[-1]


def measure_share(
    loaded: Loaded,
    questions: Sequence[Mapping[str, Any]],
    reducers: Sequence[Reducer],
    measure: Measure,
    seed: int = 0,
) -> list[float]:
    """Return what is left of the prefill of each question, as a share of the unreduced one.

    Parameters
    ----------
    loaded
        The model.
    questions
        Inputs of each, from :meth:`tokenreduce.inference.EncodedVideo.inputs`.
    reducers
        Composed in order.
    measure
        What is counted.
    seed
        Of the reducers' random choices.
    """
    runs = (prefill(loaded, inputs, reducers, seed=seed) for inputs in questions)
    return [Shares.of(sums, Full.of(sums)).get(measure) for sums in map(sum_up, runs)]


def size_of(layout: Layout, measure: Measure) -> str:
    """Return a name for all that a measure depends on where counts do not depend on content.

    That is the grid of the visual tokens, and the other tokens where they count too.
    """
    role = layout.role[0]
    cells = [layout.item, layout.frame, layout.row, layout.column]
    parts = [part[0][role == int(Role.GRID)] for part in cells]
    if measure != "img_memory":
        parts.append(role)
    return hashlib.sha256(b"/".join(p.cpu().numpy().tobytes() for p in parts)).hexdigest()
