"""How many frames rise or fall steadily over the layers: figure 2 in two numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tokenreduce.config import BASELINE
from tokenreduce.pictures.attention import frame_levels, relative_levels
from tokenreduce.pictures.documents import Levels, read_document
from tokenreduce.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

STEADY = 0.5
"""Rank correlation of a frame's relative level with the layer beyond which it is steady."""

SHUFFLES = 100


@dataclass(frozen=True, slots=True)
class Trends:
    """Shares of frames whose relative level changes steadily, without reduction.

    Attributes
    ----------
    questions, frames
        How many there were.
    falling, rising
        Shares of the frames.
    falling_by_chance, rising_by_chance
        The same, with each question's layers in random order, mean over shuffles.
    """

    questions: int
    frames: int
    falling: float
    rising: float
    falling_by_chance: float
    rising_by_chance: float

    def __str__(self) -> str:
        return (
            f"Of {self.frames} frames in {self.questions} questions {self.falling:.0%} fall and "
            f"{self.rising:.0%} rise steadily over the layers, relative to the mean frame (rank "
            f"correlation beyond {STEADY}); with the layers in random order "
            f"{self.falling_by_chance:.0%} and {self.rising_by_chance:.0%}."
        )


def read_trends(folder: Path) -> Trends | None:
    """Return the trends in a folder of results; None if no attention was recorded there."""
    with Store.read(folder) as store:
        found = list(_recorded(store))
    return trends(found) if found else None


def trends(found: list[Levels]) -> Trends:
    """Return the trends of frames over layers.

    Parameters
    ----------
    found
        One prefill without reduction for each question; at least one.
    """
    levels = [_whole(frame_levels(each)) for each in found]
    own = np.concatenate([_correlations(relative_levels(each)) for each in levels])
    order = np.random.default_rng(0)
    # Layers change places before they are smoothed: neighbours of a smoothed curve are alike.
    shuffled = (order.permutation(each) for each in levels for _ in range(SHUFFLES))
    chance = np.concatenate([_correlations(relative_levels(each)) for each in shuffled])
    return Trends(
        len(found),
        len(own),
        float((own < -STEADY).mean()),
        float((own > STEADY).mean()),
        float((chance < -STEADY).mean()),
        float((chance > STEADY).mean()),
    )


def _recorded(store: Store) -> Iterator[Levels]:
    for key, cell in store.cells():
        if cell.reducer != BASELINE:
            continue
        for record in store.pictures(key):
            if record.kind == "levels":
                place = f"{store.path}, the picture of '{record.sample}'"
                yield read_document(Levels, record.document, place)


def _whole(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``[layers, frames]`` without layers and frames that lack a value."""
    rows = levels[~np.isnan(levels).all(axis=1)]
    whole: NDArray[np.float64] = rows[:, ~np.isnan(rows).any(axis=0)]
    return whole


def _correlations(relative: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Spearman's rank correlation of each frame's level ``[layers, frames]`` with the layer.

    A frame whose level never changes has none, and counts as 0.
    """
    from scipy.stats import rankdata

    ranks = rankdata(relative, axis=0)
    ranks -= ranks.mean(axis=0)
    layer = np.arange(len(ranks)) - (len(ranks) - 1) / 2
    size = np.sqrt((ranks**2).sum(axis=0) * (layer**2).sum())
    found: NDArray[np.float64] = np.divide(
        layer @ ranks, size, out=np.zeros_like(size), where=size > 0
    )
    return found
