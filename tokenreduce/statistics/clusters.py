"""Values that come in clusters."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def grouped(values: Sequence[float], clusters: Sequence[Hashable]) -> list[list[float]]:
    """Return the values of each cluster, clusters in the order they first appear.

    Raises
    ------
    ValueError
        If there is no value, or not one cluster for each.
    """
    if not values or len(values) != len(clusters):
        raise ValueError(f"{len(values)} values in {len(clusters)} clusters: give one for each.")
    groups: dict[Hashable, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        groups.setdefault(cluster, []).append(value)
    return list(groups.values())


def by_cluster(
    values: Sequence[float], clusters: Sequence[Hashable]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sum and the number of the values in each cluster, both ``[clusters]``."""
    import numpy as np

    groups = grouped(values, clusters)
    sums = np.array([sum(group) for group in groups], dtype=np.float64)
    counts = np.array([len(group) for group in groups], dtype=np.float64)
    return sums, counts


def variance_of_mean(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> float:
    """Return the variance of the mean over all values, from how clusters differ.

    The cluster-robust variance of a ratio of sums, with the correction m / (m - 1) for m clusters
    (Cochran 1977, Sampling Techniques, section 9A.2).

    Parameters
    ----------
    sums, counts
        Of the values in each cluster, at least two clusters.
    """
    groups, total = len(counts), counts.sum()
    deviations = sums - sums.sum() / total * counts
    return float(groups / (groups - 1) * (deviations**2).sum() / total**2)
