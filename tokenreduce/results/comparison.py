"""Two rows compared on the questions that both answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from tokenreduce.report import Comparison, Verdict
from tokenreduce.report.row import Interval
from tokenreduce.results.answers import Answers
from tokenreduce.statistics import bootstrap_difference, clustered_t_test, holm, mcnemar

ALPHA = 0.05


def compared(first: Answers, second: Answers) -> Comparison:
    """Compare the accuracy of two rows, question by question.

    Parameters
    ----------
    first, second
        The rows; the difference is that of the first minus the second.
    """
    both = [key for key in first.complete if key in second.complete]
    ours = [first.complete[key] for key in both]
    theirs = [second.complete[key] for key in both]
    videos = [first.videos[key] for key in both]
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    first_only, second_only = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    found = Comparison(
        first=first.label,
        second=second.label,
        pairs=len(both),
        difference=fmean(differences) if both else None,
        interval=bootstrap_difference(ours, theirs, videos) if both else None,
        first_only=first_only,
        second_only=second_only,
        p_value=mcnemar(first_only, second_only),
        p_clustered=clustered_t_test(differences, videos) if both else 1.0,
        p_adjusted=None,
        verdict="no difference shown",
    )
    return replace(found, verdict=verdict(found.interval, found.p))


def adjusted(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Correct comparisons that are made together by Holm's method, their verdicts too."""
    return [
        replace(each, p_adjusted=p, verdict=verdict(each.interval, p))
        for each, p in zip(comparisons, holm([one.p for one in comparisons]), strict=True)
    ]


def verdict(interval: Interval | None, p: float) -> Verdict:
    """Return what an interval of a difference and a p-value allow to be said; both must agree."""
    if interval is None or p > ALPHA or interval[0] <= 0 <= interval[1]:
        return "no difference shown"
    return "better" if interval[0] > 0 else "worse"
