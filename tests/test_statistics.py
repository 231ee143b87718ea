"""Intervals and tests against published tables, statsmodels, brute force and arithmetic by hand.

Figures of statsmodels are of version 0.15.0; each stands below the call that made it.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import comb, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tokenreduce.statistics import (
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_median,
    clustered_t_test,
    clustered_wilson,
    effective_size,
    holm,
    mcnemar,
    pareto_front,
    wilson_interval,
)

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


# Newcombe (1998), Statistics in Medicine 17:857-872, table I, method 3 ("score, no continuity
# correction"): four data sets that span the cases, to four decimals.
@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_values(correct: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=5e-5)


# By hand, with z^2 = 3.841459:
# 0/10: upper bound z^2 / (n + z^2) = 3.841459 / 13.841459 = 0.277533; 10/10 is its mirror.
# 8/10: scale 1.3841459, centre (0.8 + 0.19207295) / 1.3841459 = 0.716740,
#       half 1.959964 * sqrt(0.016 + 0.00960365) / 1.3841459 = 0.226577.
@pytest.mark.parametrize(
    ("correct", "low", "high"),
    [(0, 0.0, 0.277533), (10, 0.722467, 1.0), (8, 0.490163, 0.943317)],
)
def test_by_hand(correct: int, low: float, high: float) -> None:
    assert wilson_interval(correct, 10) == pytest.approx((low, high), abs=2e-6)


# statsmodels.stats.proportion.proportion_confint(correct, total, method="wilson")
@pytest.mark.parametrize(
    ("correct", "total", "interval"),
    [
        (17, 30, (0.39197307000813597, 0.7262251442353348)),
        (3, 40, (0.025836025774588184, 0.1986423352431055)),
        (212, 245, (0.8168759772496154, 0.9024575327222127)),
    ],
)
def test_wilson_as_statsmodels(correct: int, total: int, interval: tuple[float, float]) -> None:
    assert wilson_interval(correct, total) == pytest.approx(interval, rel=1e-12)


def test_other_level() -> None:
    # 90 %: z = 1.644854; 5/10 is symmetric about one half:
    # half = z / (2 sqrt(n + z^2)) = 1.644854 / (2 * sqrt(12.705543)) = 0.230729
    assert wilson_interval(5, 10, 0.9) == pytest.approx((0.269271, 0.730729), abs=2e-6)


def test_the_ends_are_exact() -> None:
    assert wilson_interval(0, 7)[0] == 0.0
    assert wilson_interval(7, 7)[1] == 1.0


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_bounds_are_where_the_score_test_turns(counts: tuple[int, int]) -> None:
    correct, total = counts
    share = correct / total
    for bound in wilson_interval(correct, total):
        if 0 < bound < 1:
            deviation = abs(share - bound) / sqrt(bound * (1 - bound) / total)
            assert deviation == pytest.approx(Z, rel=1e-6)


@pytest.mark.parametrize(("correct", "total"), [(1, 0), (0, 0), (-1, 5), (6, 5)])
def test_no_proportion(correct: int, total: int) -> None:
    with pytest.raises(ValueError, match="is no proportion"):
        wilson_interval(correct, total)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_no_level(level: float) -> None:
    with pytest.raises(ValueError, match="outside"):
        wilson_interval(1, 2, level)


# Six videos with 3, 2, 4, 3, 2 and 3 questions, 9 of 17 right.
MARKS = [1, 1, 0, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0, 1, 1, 0, 0]
VIDEOS = list("aaabbccccdddeefff")


def test_effective_size_as_statsmodels() -> None:
    # statsmodels.api.OLS(MARKS, ones).fit(cov_type="cluster", cov_kwds={"groups": VIDEOS,
    # "use_correction": False}).cov_params()[0, 0]
    clustered = 0.01302666395277835 * 6 / 5
    effect = clustered / (9 / 17 * 8 / 17 / 16)
    # Quantiles of Student's t at 0.975 with 5 and with 16 degrees of freedom, from any table.
    few = (2.570582 / 2.119905) ** 2
    assert effective_size(MARKS, VIDEOS) == pytest.approx(17 / effect / few, rel=1e-5)


def test_clustered_wilson_is_the_plain_one_of_the_effective_size() -> None:
    size = effective_size(MARKS, VIDEOS)
    low, high = clustered_wilson(MARKS, VIDEOS)
    for bound in (low, high):
        assert abs(9 / 17 - bound) / sqrt(bound * (1 - bound) / size) == pytest.approx(Z)
    plain = wilson_interval(9, 17)
    assert low < plain[0] < plain[1] < high


def test_a_video_for_each_question_changes_nothing() -> None:
    assert clustered_wilson(MARKS, range(17)) == wilson_interval(9, 17)


def test_questions_that_say_the_same_count_once() -> None:
    # Five videos, all ten questions of a video right or all wrong: worth five questions at most.
    marks = [mark for mark in (1, 0, 1, 1, 0) for _ in range(10)]
    videos = [video for video in range(5) for _ in range(10)]
    # design effect: 5/4 sum(100 (y-0.6)^2) / 2500 over 0.24/49: 0.06 * 49 / 0.24 = 12.25;
    # t quantiles 2.776445 (4) and 2.009575 (49)
    expected = 50 / 12.25 / (2.776445 / 2.009575) ** 2
    assert effective_size(marks, videos) == pytest.approx(expected, rel=1e-5)


def test_where_nothing_varies_a_video_counts_once() -> None:
    assert effective_size([1] * 12, list("aaabbbcccddd")) == 4
    assert clustered_wilson([1] * 12, list("aaabbbcccddd")) == wilson_interval(4, 4)
    assert effective_size([1, 0, 1], list("aaa")) == 1


def test_means_over_seeds_are_no_extra_questions() -> None:
    # Two seeds each: 0.5 and 0.5 vary less than 1 and 0 would, and are still two questions.
    assert clustered_wilson([0.5] * 20, range(20)) == wilson_interval(10, 20)
    assert effective_size([0.5] * 20, [n // 2 for n in range(20)]) <= 20


@pytest.mark.parametrize("values", [[], [2.0], [-0.1, 1.0]])
def test_no_share(values: list[float]) -> None:
    with pytest.raises(ValueError, match="values in"):
        clustered_wilson(values, range(len(values)))


def test_coverage_of_clustered_questions() -> None:
    """The interval holds the true share about as often as it says; the plain one does not."""
    generator = np.random.default_rng(5)
    videos = [n // 10 for n in range(250)]  # 25 videos with 10 questions
    held = plain = 0
    for _ in range(400):
        difficulty = generator.beta(4, 2, size=25)  # mean 2/3
        marks = (generator.random((25, 10)) < difficulty[:, None]).ravel().astype(float).tolist()
        low, high = clustered_wilson(marks, videos)
        held += low <= 2 / 3 <= high
        low, high = wilson_interval(sum(marks), 250)
        plain += low <= 2 / 3 <= high
    assert held / 400 > 0.93
    assert plain / 400 < 0.85


def quantiles(values: list[Fraction], level: float) -> tuple[float, float]:
    ordered = sorted(map(float, values))
    at = [round(end * (len(ordered) - 1)) for end in ((1 - level) / 2, (1 + level) / 2)]
    return ordered[at[0]], ordered[at[1]]


def test_bootstrap_of_two_videos_by_hand() -> None:
    # Draws aa, ab, ba, bb: means 0, 1/2, 1/2, 1 for equal sizes.
    values, videos = [0.0, 0.0, 1.0, 1.0], list("aabb")
    assert bootstrap_mean(values, videos) == (0.0, 1.0)
    assert bootstrap_mean(values, videos, level=0.4) == (0.5, 0.5)
    # Three questions in b: ab gives 3 of 5.
    assert bootstrap_mean([0.0, 0.0, 1.0, 1.0, 1.0], list("aabbb"), level=0.4) == (0.6, 0.6)


def test_bootstrap_is_that_of_all_possible_draws() -> None:
    groups = [[1, 1, 0], [1, 0], [0, 0, 0, 1], [1, 1, 1], [0, 1]]
    every = [
        Fraction(sum(sum(group) for group in drawn), sum(map(len, drawn)))
        for drawn in product(groups, repeat=5)
    ]
    values = [value for group in groups for value in group]
    videos = [number for number, group in enumerate(groups) for _ in group]
    for level in (0.95, 0.8, 0.5):
        found = bootstrap_mean(values, videos, level=level, resamples=100_000)
        assert found == pytest.approx(quantiles(every, level), abs=0.015)


def test_bootstrap_as_scipy() -> None:
    generator = np.random.default_rng(1)
    values, videos = generator.normal(size=120).tolist(), [n * n // 400 for n in range(120)]
    sums = [sum(v for v, c in zip(values, videos, strict=True) if c == k) for k in range(36)]
    counts = [videos.count(k) for k in range(36)]
    reference = stats.bootstrap(
        (sums, counts),
        lambda s, n, axis: s.sum(axis) / n.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=50_000,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    found = bootstrap_mean(values, videos, resamples=50_000)
    assert found == pytest.approx((reference.low, reference.high), abs=0.006)


def test_bootstrap_of_pairs() -> None:
    first, second, videos = [1, 1, 0, 1], [0, 1, 0, 0], list("aabb")
    # Differences 1, 0 and 0, 1: each video's mean is 1/2, whatever is drawn.
    assert bootstrap_difference(first, second, videos) == (0.5, 0.5)
    assert bootstrap_difference(first, first, videos) == (0.0, 0.0)
    with pytest.raises(ValueError, match="no pairs"):
        bootstrap_difference(first, second[:3], videos)


def test_bootstrap_of_medians_is_that_of_all_possible_draws() -> None:
    groups = [[1.0, 1.5, 1.25], [2.0, 2.5], [1.75], [3.0, 1.0, 2.0, 2.25]]
    every = [
        Fraction(float(np.median(np.concatenate(drawn)))) for drawn in product(groups, repeat=4)
    ]
    values = [value for group in groups for value in group]
    samples = [number for number, group in enumerate(groups) for _ in group]
    for level in (0.95, 0.5):
        found = bootstrap_median(values, samples, level=level, resamples=40_000)
        assert found == pytest.approx(quantiles(every, level), abs=0.01)


def test_bootstrap_is_seeded_and_cut_into_batches_without_a_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values, videos = np.random.default_rng(3).random(30).tolist(), range(30)
    whole = bootstrap_mean(values, videos), bootstrap_median(values, videos)
    assert whole == (bootstrap_mean(values, videos), bootstrap_median(values, videos))
    assert whole[0] != bootstrap_mean(values, videos, seed=1)
    monkeypatch.setattr("tokenreduce.statistics.bootstrap._BATCH", 1000)
    assert whole == (bootstrap_mean(values, videos), bootstrap_median(values, videos))


def test_one_cluster_shows_no_spread() -> None:
    assert bootstrap_mean([1.0, 0.0], "aa") is None
    assert bootstrap_median([1.0, 0.0], "aa") is None


def test_nothing_to_average() -> None:
    for function in (bootstrap_mean, bootstrap_median):
        with pytest.raises(ValueError, match="give one for each"):
            function([], [])
        with pytest.raises(ValueError, match="give one for each"):
            function([1.0, 2.0], ["a"])


# statsmodels.stats.contingency_tables.mcnemar([[40, first], [second, 30]], exact=True).pvalue
@pytest.mark.parametrize(
    ("first", "second", "p"),
    [
        (10, 25, 0.016673847800120715),
        (3, 9, 0.14599609375),
        (1, 7, 0.0703125),
        (0, 5, 0.0625),
        (86, 150, 3.7159361395713866e-05),
        (4, 4, 1.0),
    ],
)
def test_mcnemar_as_statsmodels(first: int, second: int, p: float) -> None:
    assert mcnemar(first, second) == pytest.approx(p, rel=1e-9)
    assert mcnemar(second, first) == pytest.approx(p, rel=1e-9)


def test_mcnemar_by_hand() -> None:
    # 1 of 7: twice the chance of 0 or 1 heads in 7 throws, 2 (1 + 7) / 128.
    assert mcnemar(1, 6) == 2 * (1 + 7) / 2**7
    assert mcnemar(12, 3) == 2 * sum(comb(15, k) for k in range(4)) / 2**15
    assert mcnemar(0, 0) == 1.0
    with pytest.raises(ValueError, match="no counts"):
        mcnemar(-1, 2)


def test_clustered_t_test_as_statsmodels() -> None:
    differences = [0, -1, 1, 1, 0, 1, 0, 1, 1, 0, 0, 1, 1, -1, 0, 1, 1]
    # fit = statsmodels.api.OLS(differences, ones).fit(cov_type="cluster", cov_kwds={"groups":
    # VIDEOS, "use_correction": False}); fit.params[0], fit.cov_params()[0, 0]
    mean, variance = 0.411764705882353, 0.016283329940972938
    # scipy.stats.t.sf has its own tests; the density is integrated here.
    t = mean / sqrt(variance * 6 / 5)
    points = np.linspace(0, t, 200_001)
    density = 8 / (3 * np.pi * sqrt(5)) / (1 + points**2 / 5) ** 3  # of Student's t, 5 degrees
    assert clustered_t_test(differences, VIDEOS) == pytest.approx(
        1 - 2 * np.trapezoid(density, points), abs=1e-8
    )


def test_false_alarms_where_videos_differ() -> None:
    """Of two raters that are equally good, but each on other videos, few are told apart."""
    generator = np.random.default_rng(11)
    videos = [n // 10 for n in range(250)]
    alarms = {"t": 0, "mcnemar": 0}
    for _ in range(400):
        easier = generator.choice([-0.15, 0.15], size=(25, 1))
        first = generator.random((25, 10)) < 0.5 + easier
        second = generator.random((25, 10)) < 0.5 - easier
        differences = (first.astype(float) - second).ravel().tolist()
        alarms["t"] += clustered_t_test(differences, videos) <= 0.05
        only = int((first & ~second).sum()), int((second & ~first).sum())
        alarms["mcnemar"] += mcnemar(*only) <= 0.05
    assert alarms["t"] / 400 < 0.075
    assert alarms["mcnemar"] / 400 > 0.15


def test_clustered_t_test_at_its_ends() -> None:
    assert clustered_t_test([1.0, -1.0], "ab") == 1.0
    assert clustered_t_test([1.0, 1.0], "aa") == 1.0  # one video shows nothing
    assert clustered_t_test([1.0, 0.0, 1.0, 0.0], "aabb") == 0.0  # both videos say the same
    with pytest.raises(ValueError, match="give one for each"):
        clustered_t_test([], [])


# statsmodels.stats.multitest.multipletests(p, method="holm")[1]
@pytest.mark.parametrize(
    ("p", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.02, 0.02, 0.9, 0.001, 0.6], [0.08, 0.08, 1.0, 0.005, 1.0]),
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.012, 0.011, 0.05, 0.2, 0.01], [0.05, 0.05, 0.1, 0.2, 0.05]),
        ([0.04], [0.04]),
        ([], []),
    ],
)
def test_holm_as_statsmodels(p: list[float], adjusted: list[float]) -> None:
    assert holm(p) == pytest.approx(adjusted)


def test_no_p_value() -> None:
    with pytest.raises(ValueError, match="p-values"):
        holm([0.5, 1.5])


POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)


@given(POINTS)
def test_the_front_is_what_nothing_dominates(points: list[tuple[int, int]]) -> None:
    def dominated(point: tuple[int, int]) -> bool:
        return any(
            cost <= point[0] and gain >= point[1] and (cost, gain) != point for cost, gain in points
        )

    front = pareto_front([cost for cost, _ in points], [gain for _, gain in points])
    assert sorted(front) == [n for n, point in enumerate(points) if not dominated(point)]
    assert [points[n][0] for n in front] == sorted(points[n][0] for n in front)


def test_no_points() -> None:
    with pytest.raises(ValueError, match="no points"):
        pareto_front([1.0], [])
