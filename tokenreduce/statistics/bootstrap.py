"""Bootstrap intervals over clusters.

Questions about one video share what is hard about it, and prefills of one question its length: they
are drawn together or not at all (Davison and Hinkley 1997, Bootstrap Methods and their Application,
section 3.8). The intervals are percentile intervals (Efron 1979): their ends are values the mean
can take, and unlike BCa they exist where nothing varies and for medians, whose jackknife is
inconsistent. They are somewhat too narrow below about 20 clusters.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from tokenreduce.statistics.clusters import by_cluster, grouped

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RESAMPLES = 10_000
_BATCH = 4_000_000  # numbers in memory at a time


def bootstrap_mean(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile interval of the mean over all values, clusters resampled with replacement.

    Parameters
    ----------
    values
        Numbers to average.
    clusters
        The cluster of each.
    level
        Confidence level in (0, 1).
    resamples
        Resampled means to make.
    seed
        Of the resampling: the same values and seed give the same interval.

    Returns
    -------
    tuple of float, or None
        Lower and upper bound; None for a single cluster, which cannot show how clusters differ.

    Raises
    ------
    ValueError
        If there is no value, or not one cluster for each.
    """
    import numpy as np

    sums, counts = by_cluster(values, clusters)
    if len(counts) < 2:
        return None
    # Equal clusters need not be told apart: how often each kind is drawn is multinomial.
    kinds, repeats = np.unique(np.stack([sums, counts], axis=1), axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    means = []
    for size in _batches(resamples, len(kinds)):
        drawn = generator.multinomial(len(counts), repeats / len(counts), size=size) @ kinds
        means.append(drawn[:, 0] / drawn[:, 1])
    return _middle(np.concatenate(means), level)


def bootstrap_difference(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile interval of ``mean(first) - mean(second)`` over the same questions.

    Parameters
    ----------
    first, second
        Of each question the two values that are compared, in the same order.
    clusters, level, resamples, seed
        As in :func:`bootstrap_mean`.

    Raises
    ------
    ValueError
        If the lengths differ, or there is no value.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values are no pairs.")
    differences = [a - b for a, b in zip(first, second, strict=True)]
    return bootstrap_mean(differences, clusters, level=level, resamples=resamples, seed=seed)


def bootstrap_median(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile interval of the median over all values, clusters resampled with replacement.

    Used for speedups: one ratio for each timed round, clustered by question.

    Parameters
    ----------
    values, clusters, level, resamples, seed
        As in :func:`bootstrap_mean`.

    Returns
    -------
    tuple of float, or None
        As of :func:`bootstrap_mean`.

    Raises
    ------
    ValueError
        If there is no value, or not one cluster for each.
    """
    import numpy as np

    groups = grouped(values, clusters)
    if len(groups) < 2:
        return None
    table = np.full((len(groups), max(map(len, groups))), np.nan)
    for row, group in zip(table, groups, strict=True):
        row[: len(group)] = group
    generator = np.random.default_rng(seed)
    medians = [
        np.nanmedian(table[generator.integers(len(groups), size=(size, len(groups)))], axis=(1, 2))
        for size in _batches(resamples, table.size)
    ]
    return _middle(np.concatenate(medians), level)


def _batches(resamples: int, width: int) -> list[int]:
    """Cut the resamples into batches that fit into memory."""
    size = max(1, _BATCH // width)
    return [min(size, resamples - start) for start in range(0, resamples, size)]


def _middle(values: NDArray[np.float64], level: float) -> tuple[float, float]:
    import numpy as np

    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
