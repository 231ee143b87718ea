"""The Wilson score interval of a share, for questions that are independent and for those not."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import sqrt
from statistics import NormalDist

from tokenreduce.statistics.clusters import by_cluster, variance_of_mean


def wilson_interval(correct: float, total: float, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a proportion, sound for few samples and at 0 and 1.

    The set of true proportions that a two-sided score test does not reject (Wilson 1927; method 3
    of Newcombe 1998, Statistics in Medicine 17:857-872, who recommends it).

    Parameters
    ----------
    correct, total
        Successes and trials, ``0 <= correct <= total``, more than no trial. They need not be whole:
        see :func:`effective_size`.
    level
        Confidence level in (0, 1).

    Returns
    -------
    tuple of float
        Lower and upper bound, within [0, 1].

    Raises
    ------
    ValueError
        If the counts or the level make no sense.
    """
    if not 0 <= correct <= total or total <= 0:
        raise ValueError(f"{correct} correct of {total} is no proportion.")
    if not 0 < level < 1:
        raise ValueError(f"level {level} is outside (0, 1).")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = correct / total
    scale = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / scale
    half = z * sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2) / scale
    # At the ends one bound is exactly the share; rounding would leave it a hair off.
    low = 0.0 if correct == 0 else centre - half
    high = 1.0 if correct == total else centre + half
    return low, high


def clustered_wilson(
    values: Sequence[float], clusters: Sequence[Hashable], level: float = 0.95
) -> tuple[float, float]:
    """Wilson interval of a share whose trials come in clusters, such as questions about one video.

    The plain interval of as many independent trials as the clustered ones are worth
    (:func:`effective_size`); where every trial has a cluster to itself it is the plain interval
    itself. Franco, Little, Louis and Slud (2019, Journal of Survey Statistics and Methodology
    7:334-364) compare such intervals and recommend this one.

    Parameters
    ----------
    values
        One per trial, in [0, 1]: 1 for a success; a fraction is a mean over seeds.
    clusters
        The cluster of each trial.
    level
        Confidence level in (0, 1).

    Raises
    ------
    ValueError
        If there is no value, a value outside [0, 1], or not one cluster for each.
    """
    if not all(0 <= value <= 1 for value in values):
        raise ValueError("a share is made of values in [0, 1].")
    total = effective_size(values, clusters, level)
    mean = sum(values) / len(values)
    return wilson_interval(mean * total, total, level)


def effective_size(
    values: Sequence[float], clusters: Sequence[Hashable], level: float = 0.95
) -> float:
    """Return how many independent trials clustered ones are worth, at most their number.

    The number divided by the design effect (how much larger the variance between clusters makes the
    variance of the mean), and by a factor for the few clusters that it is estimated from: the
    ratio of the squared t quantiles (Korn and Graubard 1998, Survey Methodology 24:193-201). Where
    all values are equal there is no variance to look at, and a cluster counts as one trial.

    Parameters
    ----------
    values, clusters, level
        As in :func:`clustered_wilson`.
    """
    from scipy.stats import t

    sums, counts = by_cluster(values, clusters)
    groups, total = len(counts), len(values)
    if groups == total:
        return float(total)
    share = sums.sum() / total
    if groups == 1 or share in (0, 1):
        return float(groups)
    independent = share * (1 - share) / (total - 1)
    effect = max(1.0, variance_of_mean(sums, counts) / float(independent))
    upper = (1 + level) / 2
    few = (t.ppf(upper, groups - 1) / t.ppf(upper, total - 1)) ** 2
    return total / (effect * float(few))
