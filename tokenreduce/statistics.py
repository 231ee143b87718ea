"""How sure a measured share is: the Wilson score interval."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist


def wilson_interval(correct: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a proportion, sound for few samples and at 0 and 1.

    The set of true proportions that a two-sided score test does not reject (Wilson 1927; method 3
    of Newcombe 1998, Statistics in Medicine 17:857-872, who recommends it).

    Parameters
    ----------
    correct, total
        Successes and trials, ``0 <= correct <= total``, at least one trial.
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
    if not 0 <= correct <= total or total < 1:
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
