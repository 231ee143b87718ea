"""Whether a difference is more than chance: McNemar's test, and Holm's correction for many."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import sqrt

from tokenreduce.statistics.clusters import by_cluster, variance_of_mean


def mcnemar(first_only: int, second_only: int) -> float:
    """Two-sided p-value of McNemar's exact test for two raters of the same questions.

    Under the null hypothesis a question that only one of them got right is as likely to be the
    one's as the other's, so that the counts are binomial with one half (McNemar 1947, Psychometrika
    12:153-157). The exact test, not its mid-p variant: the share of false alarms never passes the
    level, at the price of some power. With seeds averaged it counts the questions on which one was
    right more often, which is the sign test. It takes questions as independent: where they come in
    clusters, :func:`clustered_t_test` must agree.

    Parameters
    ----------
    first_only, second_only
        Discordant pairs: questions that only the first, or only the second, got right.

    Returns
    -------
    float
        In (0, 1]; 1 if there is no discordant pair.

    Raises
    ------
    ValueError
        If a count is negative.
    """
    from scipy.stats import binomtest

    if first_only < 0 or second_only < 0:
        raise ValueError(f"{first_only} and {second_only} are no counts.")
    pairs = first_only + second_only
    return float(binomtest(first_only, pairs, 0.5).pvalue) if pairs else 1.0


def clustered_t_test(differences: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Two-sided p-value of a mean of differences that come in clusters.

    Student's t with the cluster-robust standard error and one degree of freedom less than clusters
    (Cameron and Miller 2015, Journal of Human Resources 50:317-372, section VI).

    Parameters
    ----------
    differences
        One per question.
    clusters
        The video of each.

    Returns
    -------
    float
        In [0, 1]; 1 for a single cluster, and where all differences are 0.

    Raises
    ------
    ValueError
        If there is no difference, or not one cluster for each.
    """
    from scipy.stats import t

    sums, counts = by_cluster(differences, clusters)
    mean = sums.sum() / counts.sum()
    if len(counts) < 2 or mean == 0:
        return 1.0
    error = sqrt(variance_of_mean(sums, counts))
    return float(2 * t.sf(abs(mean) / error, len(counts) - 1)) if error else 0.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for how many they are, by Holm's step-down method.

    Rejecting what is adjusted to at most alpha keeps the chance of any false rejection at most
    alpha, however the tests depend on each other (Holm 1979, Scandinavian Journal of Statistics
    6:65-70).

    Parameters
    ----------
    p_values
        Unadjusted, in [0, 1].

    Returns
    -------
    list of float
        Adjusted ones in the same order, at least as large, at most 1.

    Raises
    ------
    ValueError
        If one is outside [0, 1].
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError("p-values are in [0, 1].")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
